//! Events that cost more than an instruction count tells, for the budgets (`doc/budgets.tsv`): each layer says what it
//! did where it does it. Only a build with the feature `counters` counts; in any other these calls are nothing.

#[cfg(feature = "counters")]
pub use counting::{Events, read};

/// `count` descriptors were written, of any page table.
#[inline(always)]
pub fn stores(_count: usize) {
    #[cfg(feature = "counters")]
    counting::STORES.fetch_add(_count as u64, core::sync::atomic::Ordering::Relaxed);
}

/// A frame became a page table.
#[inline(always)]
pub fn table() {
    #[cfg(feature = "counters")]
    counting::TABLES.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
}

#[cfg(feature = "counters")]
mod counting {
    use crate::dma::counters;
    use core::array;
    use core::fmt;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    pub static STORES: AtomicU64 = AtomicU64::new(0);
    pub static TABLES: AtomicU64 = AtomicU64::new(0);

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
            STORES.load(Relaxed),
            TABLES.load(Relaxed),
            iommu.commands,
            iommu.syncs,
            iommu.register_writes,
            arch::counters::tlb_invalidations(),
            arch::counters::barriers(),
        ])
    }
}
