//! Time: the counter of the generic timer as nanoseconds since boot.

use super::run_queue::Nanoseconds;

/// The time slice of a thread while others are runnable.
const TIME_SLICE: Nanoseconds = 10_000_000;

/// Returns the nanoseconds since the counter started.
pub fn now() -> Nanoseconds {
    arch::timer::now_ns()
}

/// A value of the counter.
pub(super) type Ticks = u64;

/// Returns the counter value at the end of a time slice that starts now.
pub(super) fn slice_end() -> Ticks {
    arch::timer::Deadline::in_ns(TIME_SLICE).ticks()
}

/// Returns whether the counter has reached `at`.
pub(super) fn has_passed(at: Ticks) -> bool {
    arch::timer::now() >= at
}

/// Sets this CPU's timer to the earlier of the two, or off without either. A time in the past raises the
/// interrupt at once.
pub(super) fn interrupt_at(slice_end: Option<Ticks>, deadline: Option<Nanoseconds>) {
    match slice_end.into_iter().chain(deadline.map(arch::timer::ns_to_ticks)).min() {
        Some(at) => arch::timer::interrupt_at(at),
        None => arch::timer::off(),
    }
}
