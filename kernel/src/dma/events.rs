//! All event counts of the feature `counters` at one moment, for benchmarks.

use super::counters;
use crate::perf_counters;
use core::array;
use core::fmt;

/// Counts of all CPUs, in the order of [`Events::NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Events(pub [u64; Events::NAMES.len()]);

impl Events {
    /// Descriptors written; frames that became tables; commands to the IOMMU, waits among them; writes to its
    /// registers; TLBI instructions; DSB, DMB and ISB instructions.
    pub const NAMES: [&'static str; 7] =
        ["stores", "tables", "commands", "syncs", "mmio", "tlbis", "barriers"];

    /// What happened between `earlier` and this.
    pub fn since(self, earlier: Self) -> Self {
        Self(array::from_fn(|n| self.0[n] - earlier.0[n]))
    }
}

impl fmt::Display for Events {
    /// `stores=1 tables=0 ..`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Self::NAMES.iter().zip(self.0);
        words.try_for_each(|(name, count)| write!(f, "{name}={count} "))
    }
}

/// The counts since boot.
pub fn read() -> Events {
    let iommu = counters::read();
    Events([
        perf_counters::descriptor_stores(),
        perf_counters::table_allocations(),
        iommu.commands,
        iommu.syncs,
        iommu.register_writes,
        arch::counters::tlb_invalidations(),
        arch::counters::barriers(),
    ])
}
