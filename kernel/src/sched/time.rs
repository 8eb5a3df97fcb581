//! Time: the counter of the generic timer as nanoseconds since boot.

use super::run_queue::Nanoseconds;
use crate::debug;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The time slice of a thread while others are runnable.
const TIME_SLICE: Nanoseconds = 10_000_000;

/// Returns the nanoseconds since the counter started.
pub fn now() -> Nanoseconds {
    arch::timer::now_ns()
}

/// The real time when the counter started, in nanoseconds since the epoch; 0 without a real-time clock.
static COUNTER_START: AtomicU64 = AtomicU64::new(0);

/// Sets the real time, in seconds since the epoch.
pub fn set_realtime(seconds: u32) {
    let since_epoch = u64::from(seconds) * 1_000_000_000;
    COUNTER_START.store(since_epoch.saturating_sub(now()), Relaxed);
}

/// Returns the real time when the counter started.
pub fn counter_start() -> Nanoseconds {
    COUNTER_START.load(Relaxed)
}

/// Returns the nanoseconds since the epoch, which is the start of the counter without a real-time clock.
pub fn realtime_now() -> Nanoseconds {
    COUNTER_START.load(Relaxed) + now()
}

/// Converts a time since the epoch to one since the counter started.
pub fn from_realtime(at: Nanoseconds) -> Nanoseconds {
    at.saturating_sub(COUNTER_START.load(Relaxed))
}

/// A value of the counter.
pub(super) type Ticks = u64;

/// Returns the counter value at the end of a time slice that starts now.
pub(super) fn slice_end() -> Ticks {
    arch::timer::Deadline::in_ns(debug::time_slice(TIME_SLICE)).ticks()
}

/// Returns whether the counter has reached `at`.
pub(super) fn has_passed(at: Ticks) -> bool {
    arch::timer::now() >= at
}

/// Sets this CPU's timer to the earlier of the two, or off without either. A time in the past raises the
/// interrupt immediately.
pub(super) fn interrupt_at(slice_end: Option<Ticks>, deadline: Option<Nanoseconds>) {
    match slice_end.into_iter().chain(deadline.map(arch::timer::ns_to_ticks)).min() {
        Some(at) => arch::timer::interrupt_at(at),
        None => arch::timer::off(),
    }
}
