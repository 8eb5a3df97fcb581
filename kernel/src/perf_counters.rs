//! Counts of events that an instruction count does not show, for the budgets (`doc/budgets.tsv`): descriptor stores and
//! page-table allocations. Only a build with the feature `counters` counts; elsewhere the functions are empty.

#[cfg(feature = "counters")]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[cfg(feature = "counters")]
static DESCRIPTOR_STORES: AtomicU64 = AtomicU64::new(0);
#[cfg(feature = "counters")]
static TABLE_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts `count` descriptor writes, in any page table.
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

/// Returns the descriptor stores since boot.
#[cfg(feature = "counters")]
pub fn descriptor_stores() -> u64 {
    DESCRIPTOR_STORES.load(Relaxed)
}

/// Returns the page-table allocations since boot.
#[cfg(feature = "counters")]
pub fn table_allocations() -> u64 {
    TABLE_ALLOCATIONS.load(Relaxed)
}
