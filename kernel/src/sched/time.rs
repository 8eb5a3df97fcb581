//! Time: the generic timer's counter as nanoseconds since the boot.

use super::queue::Nanoseconds;

/// How long a thread runs while others are ready.
pub const SLICE: Nanoseconds = 10_000_000;

/// Nanoseconds since the counter started.
pub fn now() -> Nanoseconds {
    arch::timer::now_ns()
}

/// Makes this CPU's timer interrupt at `at`, or soon when that is over; `u64::MAX` is never.
pub(super) fn interrupt_at(at: Nanoseconds) {
    if at == u64::MAX {
        arch::timer::off();
    } else {
        arch::timer::interrupt_at(arch::timer::ns_to_ticks(at));
    }
}
