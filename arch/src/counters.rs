//! How many barriers and TLB invalidations were executed, for the budgets of a build with the feature `counters`.
//!
//! Counted are those in Rust; the few in assembly are entries to and returns from exceptions, and boot.

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

/// Notes one barrier.
pub(crate) fn barrier() {
    BARRIERS.fetch_add(1, Relaxed);
}

/// Notes one TLBI.
#[cfg(target_os = "none")]
pub(crate) fn tlb_invalidation() {
    TLB_INVALIDATIONS.fetch_add(1, Relaxed);
}
