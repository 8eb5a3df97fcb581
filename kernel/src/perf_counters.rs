//! Gauges, and counters of events with a cost that an instruction count does not include (`doc/budgets.tsv`):
//! descriptor stores and page-table allocations. The counters require the feature `counters`; without it
//! their functions are empty.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[cfg(feature = "counters")]
static DESCRIPTOR_STORES: AtomicU64 = AtomicU64::new(0);
#[cfg(feature = "counters")]
static TABLE_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts `count` stores to descriptors of any page table.
#[inline(always)]
pub fn count_descriptor_stores(_count: usize) {
    #[cfg(feature = "counters")]
    DESCRIPTOR_STORES.fetch_add(_count as u64, Relaxed);
}

/// Counts the allocation of a page table.
#[inline(always)]
pub fn count_table_allocation() {
    #[cfg(feature = "counters")]
    TABLE_ALLOCATIONS.fetch_add(1, Relaxed);
}

/// Returns the number of descriptor stores since boot.
#[cfg(feature = "counters")]
pub fn descriptor_stores() -> u64 {
    DESCRIPTOR_STORES.load(Relaxed)
}

/// Returns the number of page-table allocations since boot.
#[cfg(feature = "counters")]
pub fn table_allocations() -> u64 {
    TABLE_ALLOCATIONS.load(Relaxed)
}

/// A current value and its peak.
#[derive(Default)]
pub struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

/// The reading of a gauge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    pub now: u64,
    pub peak: u64,
}

impl Gauge {
    pub const fn new() -> Self {
        Self { now: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    #[inline]
    pub fn add(&self, amount: u64) {
        let now = self.now.fetch_add(amount, Relaxed) + amount;
        // A load is cheaper than `fetch_max`, and a new peak is rare.
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    pub fn sub(&self, amount: u64) {
        self.now.fetch_sub(amount, Relaxed);
    }

    pub fn read(&self) -> Reading {
        Reading { now: self.now.load(Relaxed), peak: self.peak.load(Relaxed) }
    }
}
