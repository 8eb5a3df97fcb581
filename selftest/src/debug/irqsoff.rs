//! The places that mask interrupts for the longest time, and the tests in which they do.

use alloc::vec::Vec;
use arch::irqsoff::{self, PLACES, Stretch};
use core::ptr;
use kernel::kprintln;

/// The longest stretch of each place, with the name of the test.
pub struct LongestStretches(Vec<(Stretch, &'static str)>);

impl LongestStretches {
    /// Discards the stretches so far, those of boot.
    pub fn start() -> Self {
        irqsoff::take_longest();
        Self(Vec::new())
    }

    /// Adds the stretches during `test`, which has ended.
    pub fn add(&mut self, test: &'static str) {
        for (site, ticks) in irqsoff::take_longest().into_iter().flatten() {
            match self.0.iter_mut().find(|((other, _), _)| ptr::eq(*other, site)) {
                Some(longest) if longest.0.1 >= ticks => {}
                Some(longest) => *longest = ((site, ticks), test),
                None => self.0.push(((site, ticks), test)),
            }
        }
    }

    /// Prints the longest stretches, the longest first. `cargo xtask` checks the first line, under `-icount`.
    pub fn print(mut self) {
        self.0.sort_unstable_by_key(|&((_, ticks), _)| core::cmp::Reverse(ticks));
        for ((site, ticks), test) in self.0.iter().take(PLACES) {
            kprintln!("# irqsoff: {ticks} ticks since {site}, in {test}");
        }
    }
}
