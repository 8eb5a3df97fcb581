//! Rate-limited log lines about an SMMU itself: a few per second, the rest are counted. An error may repeat
//! indefinitely.

use crate::kprintln;
use crate::sched::time;
use core::fmt::Display;
use drivers::rate_limiter::RateLimiter;

/// Error lines per second.
const BURST: u32 = 8;

/// The rate limiters of the error lines and of the overflow lines.
pub(super) struct FaultLog {
    errors: RateLimiter,
    /// Overflows of the event queue: one line per second.
    losses: RateLimiter,
}

impl FaultLog {
    pub(super) const fn new() -> Self {
        Self { errors: RateLimiter::new(BURST), losses: RateLimiter::new(1) }
    }

    /// Prints `error` unless the limit is reached. Returns whether it was printed.
    pub(super) fn error(&mut self, error: &dyn Display) -> bool {
        self.report_suppressed();
        let admitted = self.errors.admit();
        if admitted {
            kprintln!("smmu: {error}");
        }
        admitted
    }

    /// Prints once a second that events are lost. Their streams are unknown: a stream without an event so far
    /// is reported with its next one.
    pub(super) fn events_lost(&mut self) {
        self.report_suppressed();
        if self.losses.admit() {
            kprintln!("smmu: events are lost: the queue was full or could not be written");
        }
    }

    /// Prints the number of suppressed lines when their second is over.
    pub(super) fn report_suppressed(&mut self) {
        let now = time::now() / 1000;
        if let Some(suppressed) = self.errors.roll_over(now) {
            kprintln!("smmu: {suppressed} more global errors");
        }
        if let Some(suppressed) = self.losses.roll_over(now) {
            kprintln!("smmu: events were lost {suppressed} more times");
        }
    }
}
