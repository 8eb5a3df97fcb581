//! Counters of executed barriers and TLB invalidations, for the budgets. They require the feature `counters`;
//! without it the counting functions are empty.
//!
//! Instructions in assembly files are not counted: boot, exception entry and return.

#[cfg(feature = "counters")]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[cfg(feature = "counters")]
static BARRIERS: AtomicU64 = AtomicU64::new(0);
#[cfg(feature = "counters")]
static TLB_INVALIDATIONS: AtomicU64 = AtomicU64::new(0);

/// DSB, DMB and ISB instructions of all CPUs since boot.
#[cfg(feature = "counters")]
pub fn barriers() -> u64 {
    BARRIERS.load(Relaxed)
}

/// TLBI instructions of all CPUs since boot.
#[cfg(feature = "counters")]
pub fn tlb_invalidations() -> u64 {
    TLB_INVALIDATIONS.load(Relaxed)
}

/// Counts a barrier.
#[inline(always)]
pub(crate) fn barrier() {
    #[cfg(feature = "counters")]
    BARRIERS.fetch_add(1, Relaxed);
}

/// Counts a TLBI.
#[cfg(target_os = "none")]
#[inline(always)]
pub(crate) fn tlb_invalidation() {
    #[cfg(feature = "counters")]
    TLB_INVALIDATIONS.fetch_add(1, Relaxed);
}
