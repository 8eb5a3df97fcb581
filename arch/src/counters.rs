//! Counters of executed barriers and TLB invalidations, for the budgets (feature `counters`).
//!
//! Instructions in assembly files are not counted: boot, exception entry and return.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static BARRIERS: AtomicU64 = AtomicU64::new(0);
static TLB_INVALIDATIONS: AtomicU64 = AtomicU64::new(0);

/// DSB, DMB and ISB instructions of all CPUs since boot.
pub fn barriers() -> u64 {
    BARRIERS.load(Relaxed)
}

/// TLBI instructions of all CPUs since boot.
pub fn tlb_invalidations() -> u64 {
    TLB_INVALIDATIONS.load(Relaxed)
}

/// Counts a barrier.
pub(crate) fn barrier() {
    BARRIERS.fetch_add(1, Relaxed);
}

/// Counts a TLBI.
#[cfg(target_os = "none")]
pub(crate) fn tlb_invalidation() {
    TLB_INVALIDATIONS.fetch_add(1, Relaxed);
}
