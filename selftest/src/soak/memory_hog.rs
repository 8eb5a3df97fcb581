//! Memory pressure: allocates all free memory and frees it again, so that other threads' allocations fail or
//! get the last free frames.

use super::rng::Rng;
use super::round::Tally;
use crate::fixture::allocate_all;
use kernel::debug::LastOwner;
use kernel::memory::zones;
use kernel::sched::{self, time};
use memory::Reach;

/// The longest time for which all memory is allocated, or free.
const MAX_PAUSE_MS: u64 = 60;

/// Allocates and frees all memory until `end`.
pub fn run(mut rng: Rng, end: u64) -> Tally {
    let mut tally = Tally::default();
    while time::now() < end {
        // Except for the kernel's reserve of lowmem.
        let mut all = allocate_all(Reach::ANYWHERE);
        pause(&mut rng);
        all.free_to(&mut zones::FrameAllocator::with_owner(LastOwner::Untouched));
        pause(&mut rng);
        tally.operations += 1;
    }
    tally
}

fn pause(rng: &mut Rng) {
    // Kernel threads are never interrupted.
    _ = sched::sleep_until(time::now() + rng.below(MAX_PAUSE_MS) * 1_000_000);
}
