//! Lines about an SMMU itself: a few in each second, the others counted. What goes wrong once may go wrong without end.

use crate::kprintln;
use crate::sched::time;
use core::fmt::Display;

/// Lines in each second.
const BURST: u32 = 8;
const WINDOW_NS: u64 = 1_000_000_000;

/// What was said in this second.
pub(super) struct Notices {
    since: u64,
    shown: u32,
    left_out: u64,
}

impl Notices {
    pub(super) const fn new() -> Self {
        Self { since: 0, shown: 0, left_out: 0 }
    }

    /// Prints `what`, if there is a line left for it; whether there was.
    pub(super) fn say(&mut self, what: &dyn Display) -> bool {
        self.catch_up();
        let shows = self.admit();
        if shows {
            kprintln!("smmu: {what}");
        }
        shows
    }

    /// Says how many lines were left out, if their second is over.
    pub(super) fn catch_up(&mut self) {
        if let Some(left_out) = self.next_window(time::now()) {
            kprintln!("smmu: {left_out} more errors of its own");
        }
    }

    fn admit(&mut self) -> bool {
        let shows = self.shown < BURST;
        self.shown += u32::from(shows);
        self.left_out += u64::from(!shows);
        shows
    }

    /// Begins another window if this one is over; what was left out in it.
    fn next_window(&mut self, now: u64) -> Option<u64> {
        if now.saturating_sub(self.since) <= WINDOW_NS {
            return None;
        }
        let left_out = self.left_out;
        *self = Self { since: now, ..Self::new() };
        (left_out > 0).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_when_its_second_is_over() {
        let mut notices = Notices::new();
        let shown = (0..100).filter(|_| notices.admit()).count();
        assert_eq!((shown, notices.next_window(WINDOW_NS)), (BURST as usize, None));
        assert_eq!(notices.next_window(WINDOW_NS + 1), Some(100 - u64::from(BURST)));
        assert!(notices.admit());
        assert_eq!(notices.next_window(3 * WINDOW_NS), None, "nothing was left out");
    }
}
