//! Time: the generic timer's counter as nanoseconds since the boot.

use super::run_queue::Nanoseconds;

/// How long a thread runs while others are ready.
const SLICE: Nanoseconds = 10_000_000;

/// Nanoseconds since the counter started.
pub fn now() -> Nanoseconds {
    arch::timer::now_ns()
}

/// What the counter counts.
pub(super) type Ticks = u64;

/// What the counter shows when a slice that starts now is over.
pub(super) fn slice_end() -> Ticks {
    arch::timer::Deadline::in_ns(SLICE).ticks()
}

/// Whether the counter is past `at`.
pub(super) fn is_over(at: Ticks) -> bool {
    arch::timer::now() >= at
}

/// Makes this CPU's timer interrupt when the first of these comes, or soon when it is over.
pub(super) fn interrupt_at(slice_end: Option<Ticks>, deadline: Option<Nanoseconds>) {
    match slice_end.into_iter().chain(deadline.map(arch::timer::ns_to_ticks)).min() {
        Some(at) => arch::timer::interrupt_at(at),
        None => arch::timer::off(),
    }
}
