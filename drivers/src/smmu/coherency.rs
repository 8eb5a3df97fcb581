//! What it takes until the SMMU sees what the CPU wrote, and the CPU what the SMMU wrote.

use addr::{AddrRange, KernelVa};
use arch::{barrier, cache};
use core::sync::atomic::AtomicU64;
use smmu_spec::WalkCoherency;

/// The maintenance around shared memory, decided once by how the SMMU walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Coherency(pub WalkCoherency);

impl Coherency {
    /// `words` were written by the CPU. Cleans them where the SMMU does not snoop; no barrier.
    #[inline]
    pub fn written(self, words: &[AtomicU64]) {
        if self.0 == WalkCoherency::NonCoherent {
            cache::clean_lines(lines(words));
        }
    }

    /// [`Coherency::written`] for what takes an effort to find.
    #[inline]
    pub fn written_if<'a, const N: usize>(self, words: impl FnOnce() -> [&'a [AtomicU64]; N]) {
        if self.0 == WalkCoherency::NonCoherent {
            words().into_iter().for_each(|words| cache::clean_lines(lines(words)));
        }
    }

    /// Everything written (and handed to [`Coherency::written`]) before is seen by the SMMU before any register write that
    /// follows.
    #[inline]
    pub fn publish(self) {
        match self.0 {
            WalkCoherency::Coherent => barrier::dmb_oshst(),
            // Only a DSB waits for cache maintenance.
            WalkCoherency::NonCoherent => barrier::dsb_sy(),
        }
    }

    /// The CPU is about to read `words`, which only the SMMU writes, because a register said so: what is read is no older
    /// than the register.
    pub fn about_to_read(self, words: &[AtomicU64]) {
        barrier::dmb_oshld();
        if self.0 == WalkCoherency::NonCoherent {
            // The lines are never dirty, so cleaning writes nothing over what the SMMU wrote.
            cache::clean_invalidate_lines(lines(words));
            barrier::dsb_sy();
        }
    }

    /// What the CPU read before was read before the SMMU sees any register write that follows, and may write there again.
    pub fn done_reading(self) {
        barrier::dmb_oshld();
    }
}

/// Where `words` are; the cache functions widen it to whole lines.
fn lines(words: &[AtomicU64]) -> AddrRange<KernelVa> {
    let ends = words.as_ptr_range();
    AddrRange::new(KernelVa::new(ends.start.addr() as u64), KernelVa::new(ends.end.addr() as u64))
}
