//! Coherency between the CPU's and the SMMU's accesses to shared memory: barriers and cache maintenance.

use addr::{AddrRange, KernelVa};
use arch::{barrier, cache};
use core::sync::atomic::AtomicU64;
use smmu_spec::WalkCoherency;

/// The required maintenance, by whether the SMMU's own accesses snoop the CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Coherency(pub WalkCoherency);

impl Coherency {
    /// Cleans `words`, which the CPU has written, if the SMMU does not snoop. Executes no barrier.
    #[inline]
    pub fn clean(self, words: &[AtomicU64]) {
        if self.0 == WalkCoherency::NonCoherent {
            cache::clean_lines(lines(words));
        }
    }

    /// [`Coherency::clean`] of words that are computed only if they need cleaning.
    #[inline]
    pub fn clean_if<'a, const N: usize>(self, words: impl FnOnce() -> [&'a [AtomicU64]; N]) {
        if self.0 == WalkCoherency::NonCoherent {
            words().into_iter().for_each(|words| cache::clean_lines(lines(words)));
        }
    }

    /// Makes earlier stores (and those passed to [`Coherency::clean`]) visible to the SMMU before any later
    /// register write.
    #[inline]
    pub fn publish(self) {
        match self.0 {
            WalkCoherency::Coherent => barrier::dmb_oshst(),
            // Only a DSB waits for cache maintenance.
            WalkCoherency::NonCoherent => barrier::dsb_sy(),
        }
    }

    /// Prepares a read of `words`, which only the SMMU writes, after a register read announced them: the CPU
    /// reads values no older than the register's.
    pub fn before_read(self, words: &[AtomicU64]) {
        barrier::dmb_oshld();
        if self.0 == WalkCoherency::NonCoherent {
            // The lines are never dirty, so the clean does not overwrite the SMMU's stores.
            cache::clean_invalidate_lines(lines(words));
            barrier::dsb_sy();
        }
    }

    /// Completes earlier reads before any later register write, which allows the SMMU to overwrite the words.
    pub fn after_read(self) {
        barrier::dmb_oshld();
    }
}

/// The addresses of `words`; the cache functions extend the range to whole lines.
fn lines(words: &[AtomicU64]) -> AddrRange<KernelVa> {
    let ends = words.as_ptr_range();
    AddrRange::new(KernelVa::new(ends.start.addr() as u64), KernelVa::new(ends.end.addr() as u64))
}
