//! Memory that the CPU shares with an ITS or a redistributor: attributes in the base registers, barriers and
//! cache maintenance.

use crate::mmio::RegisterAccess;
use crate::region::Region;
use addr::{AddrRange, KernelVa};
use arch::{barrier, cache};
use core::sync::atomic::AtomicU64;

const SHAREABILITY: u64 = 3 << 10;
const INNER_SHAREABLE: u64 = 1 << 10;
/// Values of a cacheability field: normal non-cacheable, and write-back with read and write allocation. The
/// outer field stays 0, "as the inner one".
const NON_CACHEABLE: u64 = 1;
const WRITE_BACK: u64 = 7;

/// Position of the inner cacheability field in GITS_CBASER and GITS_BASERn (IHI 0069, 12.19).
pub(super) const ITS_INNER_CACHE: u32 = 59;
/// The same in GICR_PROPBASER and GICR_PENDBASER (12.11).
pub(super) const GICR_INNER_CACHE: u32 = 7;

/// Whether accesses to a table snoop the CPU caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ItsCoherency {
    /// Inner shareable, cacheable accesses.
    Coherent,
    /// Accesses do not snoop: the CPU cleans its stores to the Point of Coherency.
    NonCoherent,
}

impl ItsCoherency {
    /// The coherency of a base register with this value.
    pub fn of(register: u64, inner_cache: u32) -> Self {
        let cacheable = register >> inner_cache & 7 > NON_CACHEABLE;
        match register & SHAREABILITY == INNER_SHAREABLE && cacheable {
            true => Self::Coherent,
            false => Self::NonCoherent,
        }
    }

    /// The weaker of both.
    pub fn and(self, other: Self) -> Self {
        if self == Self::Coherent { other } else { self }
    }

    /// Cleans `words`, which the CPU has written. Executes no barrier.
    pub fn clean(self, words: &[AtomicU64]) {
        if self == Self::NonCoherent {
            let ends = words.as_ptr_range();
            let [start, end] = [ends.start, ends.end].map(|at| KernelVa::new(at.addr() as u64));
            cache::clean_lines(AddrRange::new(start, end));
        }
    }

    /// Makes earlier stores, and those passed to [`ItsCoherency::clean`], visible to the ITS and the
    /// redistributors before any later register write.
    pub fn publish(self) {
        match self {
            Self::Coherent => barrier::dsb_ishst(),
            Self::NonCoherent => barrier::dsb_sy(),
        }
    }

    /// Makes all of a new table visible.
    pub fn publish_all(self, table: &Region) {
        self.clean(table.words());
        self.publish();
    }
}

/// Writes a base register with cacheable, inner shareable accesses, unless the implementation or `forced`
/// excludes them: then with non-cacheable ones. Returns the value that the register has now.
pub(super) fn write_base(
    registers: &mut impl RegisterAccess,
    offset: u64,
    value: u64,
    inner_cache: u32,
    forced: Option<ItsCoherency>,
) -> (u64, ItsCoherency) {
    if forced != Some(ItsCoherency::NonCoherent) {
        registers.write64(offset, value | INNER_SHAREABLE | WRITE_BACK << inner_cache);
        let read = registers.read64(offset);
        if ItsCoherency::of(read, inner_cache) == ItsCoherency::Coherent {
            return (read, ItsCoherency::Coherent);
        }
    }
    // The fields of an implementation without inner shareable accesses are fixed, or keep this value.
    registers.write64(offset, value | NON_CACHEABLE << inner_cache);
    (registers.read64(offset), ItsCoherency::NonCoherent)
}
