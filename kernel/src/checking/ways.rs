//! Ways to an event: who called whom until something could fail. A loop comes to it a thousand times by one way.
//!
//! A way is known by a hash of its return addresses, up to where the kernel was entered: from a program, at the start
//! of a thread, or by an interrupt, which comes anywhere.

use super::Class;
use arch::backtrace;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// More ways than any test has, many times over.
const PLACES: usize = 4096;
/// No way has this hash.
const FREE: u64 = 0;

/// The ways on which something has failed. Each is at the place that its hash says, or at one of the next few.
static KNOWN: [AtomicU64; PLACES] = [const { AtomicU64::new(FREE) }; PLACES];
/// The place of the last one, if it was new.
static NEWEST: AtomicUsize = AtomicUsize::new(PLACES);
static OVERFLOWED: AtomicBool = AtomicBool::new(false);

/// A way's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way(u64);

/// The way that led to this event of `class`.
#[inline(always)] // The walk starts at the caller's frame.
pub(super) fn here(class: Class) -> Way {
    let hash = backtrace::since_interrupt().fold(mix(0, class as u64 + 1), mix);
    Way(hash.max(FREE + 1))
}

/// A step of a multiplicative hash; the high half is brought down, since it is mixed best.
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

/// Whether nothing has failed on `way` yet. A way for which there is no place counts as known.
pub(super) fn is_new(way: Way) -> bool {
    indices(way).find_map(|index| verdict(&KNOWN[index], way)).unwrap_or_else(overflowed)
}

/// `Some` where the search ends.
fn verdict(place: &AtomicU64, way: Way) -> Option<bool> {
    match place.load(Relaxed) {
        FREE => Some(true),
        known if known == way.0 => Some(false),
        _ => None,
    }
}

fn overflowed() -> bool {
    OVERFLOWED.store(true, Relaxed);
    false
}

/// Something has failed on `way`. One at a time does this.
pub(super) fn note(way: Way) {
    let index = indices(way).find(|&index| verdict(&KNOWN[index], way).is_some());
    let is_new = index.is_some_and(|index| KNOWN[index].swap(way.0, Relaxed) == FREE);
    NEWEST.store(index.filter(|_| is_new).unwrap_or(PLACES), Relaxed);
}

/// The last way on which something has failed is new again if it was then.
pub fn forget_newest() {
    if let Some(place) = KNOWN.get(NEWEST.swap(PLACES, Relaxed)) {
        place.store(FREE, Relaxed);
    }
}

/// Where `way` may be.
fn indices(way: Way) -> impl Iterator<Item = usize> {
    const REACH: usize = 64;
    (0..REACH).map(move |step| (way.0 as usize + step) % PLACES)
}

/// Forgets all ways.
pub fn forget() {
    KNOWN.iter().for_each(|place| place.store(FREE, Relaxed));
    OVERFLOWED.store(false, Relaxed);
}

/// Whether there were ways without a place, which never failed therefore.
pub fn have_overflowed() -> bool {
    OVERFLOWED.load(Relaxed)
}
