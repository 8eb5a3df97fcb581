//! Takes all the memory there is, holds it for a moment, and gives it back for a moment: the others are refused what they
//! want, or get the last of it.

use super::rng::Rng;
use super::round::Tally;
use crate::fixture::take_all;
use kernel::debug::LastOwner;
use kernel::memory::zones;
use kernel::sched::{self, time};
use memory::Reach;

/// How long everything is taken, or free for all, at most.
const MOST_MS: u64 = 60;

/// Takes and gives until `end`.
pub fn run(mut rng: Rng, end: u64) -> Tally {
    let mut tally = Tally::default();
    while time::now() < end {
        // But for the kernel's own share of lowmem.
        let mut all = take_all(Reach::ANYWHERE);
        pause(&mut rng);
        all.free_to(&mut zones::FrameAllocator::of(LastOwner::Untouched));
        pause(&mut rng);
        tally.operations += 1;
    }
    tally
}

fn pause(rng: &mut Rng) {
    // An interruption is this thread's only, and it has none.
    _ = sched::sleep_until(time::now() + rng.below(MOST_MS) * 1_000_000);
}
