//! Lines about an SMMU itself: a few in each second, the others counted. What goes wrong once may go wrong without end.

use crate::kprintln;
use crate::sched::time;
use core::fmt::Display;
use drivers::smmu::Ration;

/// Lines in each second.
const BURST: u32 = 8;

/// What was said in this second.
pub(super) struct Notices(Ration);

impl Notices {
    pub(super) const fn new() -> Self {
        Self(Ration::new(BURST))
    }

    /// Prints `what`, if there is a line left for it; whether there was.
    pub(super) fn say(&mut self, what: &dyn Display) -> bool {
        self.catch_up();
        let shows = self.0.admit();
        if shows {
            kprintln!("smmu: {what}");
        }
        shows
    }

    /// Says how many lines were left out, if their second is over.
    pub(super) fn catch_up(&mut self) {
        if let Some(left_out) = self.0.renew(time::now() / 1000) {
            kprintln!("smmu: {left_out} more errors of its own");
        }
    }
}
