//! Lines about an SMMU itself: a few in each second, the others counted. What goes wrong once may go wrong without end.

use crate::kprintln;
use crate::sched::time;
use core::fmt::Display;
use drivers::rate_limiter::RateLimiter;

/// Lines in each second.
const BURST: u32 = 8;

/// What was said in this second.
pub(super) struct Notices {
    errors: RateLimiter,
    /// Times that events were lost: a line in each second.
    losses: RateLimiter,
}

impl Notices {
    pub(super) const fn new() -> Self {
        Self { errors: RateLimiter::new(BURST), losses: RateLimiter::new(1) }
    }

    /// Prints `what`, if there is a line left for it; whether there was.
    pub(super) fn say(&mut self, what: &dyn Display) -> bool {
        self.catch_up();
        let shows = self.errors.admit();
        if shows {
            kprintln!("smmu: {what}");
        }
        shows
    }

    /// Prints that events are lost, once a second. Whose they are nobody knows: a stream that has had none so far is
    /// shown when it has its next.
    pub(super) fn lose_events(&mut self) {
        self.catch_up();
        if self.losses.admit() {
            kprintln!("smmu: events are lost: the queue was full or could not be written");
        }
    }

    /// Says how many lines were left out, if their second is over.
    pub(super) fn catch_up(&mut self) {
        let now = time::now() / 1000;
        if let Some(left_out) = self.errors.roll_over(now) {
            kprintln!("smmu: {left_out} more errors of its own");
        }
        if let Some(left_out) = self.losses.roll_over(now) {
            kprintln!("smmu: events were lost {left_out} more times");
        }
    }
}
