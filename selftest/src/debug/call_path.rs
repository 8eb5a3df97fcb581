//! Call paths to fail points. A loop may reach a fail point a thousand times by the same path, for which one
//! failure is enough.
//!
//! A path is the hash of its return addresses, back to the kernel entry: an exception from user space, the
//! start of a thread, or an interrupt, which may arrive anywhere.

use arch::backtrace;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use kernel::debug::FailPoint;

/// Slots of the hash table, many times the number of paths of any test.
const SLOTS: usize = 4096;
/// The most slots probed for a hash.
const PROBES: usize = 64;
/// An empty slot; no path has this hash.
const EMPTY: u64 = 0;

/// The paths on which an operation has failed: open addressing with linear probing.
static KNOWN: [AtomicU64; SLOTS] = [const { AtomicU64::new(EMPTY) }; SLOTS];
/// The slot of the last recorded path, if the path was new.
static NEWEST: AtomicUsize = AtomicUsize::new(SLOTS);
static OVERFLOWED: AtomicBool = AtomicBool::new(false);

/// The hash of a call path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CallPath(u64);

/// Returns the path that led to `point`.
#[inline(always)] // The backtrace starts at the caller's frame.
pub(super) fn here(point: FailPoint) -> CallPath {
    let hash = backtrace::since_interrupt().fold(mix(0, point as u64 + 1), mix);
    CallPath(hash.max(EMPTY + 1))
}

/// A step of a multiplicative hash; the high half, which is mixed best, is folded into the low one.
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

/// Returns whether no operation has failed on `path`. A path without a free slot counts as known.
pub(super) fn is_new(path: CallPath) -> bool {
    indices(path).find_map(|index| probe(&KNOWN[index], path)).unwrap_or_else(overflow)
}

/// Returns whether the path is new, where the probing ends; `None` where it continues.
fn probe(slot: &AtomicU64, path: CallPath) -> Option<bool> {
    match slot.load(Relaxed) {
        EMPTY => Some(true),
        known if known == path.0 => Some(false),
        _ => None,
    }
}

fn overflow() -> bool {
    OVERFLOWED.store(true, Relaxed);
    false
}

/// Records a failure on `path`. Calls are serialised by the injector.
pub(super) fn record(path: CallPath) {
    let index = indices(path).find(|&index| probe(&KNOWN[index], path).is_some());
    let is_new = index.is_some_and(|index| KNOWN[index].swap(path.0, Relaxed) == EMPTY);
    NEWEST.store(index.filter(|_| is_new).unwrap_or(SLOTS), Relaxed);
}

/// Removes the last recorded path if it was new then.
pub fn forget_newest_path() {
    if let Some(slot) = KNOWN.get(NEWEST.swap(SLOTS, Relaxed)) {
        slot.store(EMPTY, Relaxed);
    }
}

fn indices(path: CallPath) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |step| (path.0 as usize + step) % SLOTS)
}

/// Removes all paths.
pub fn forget_all_paths() {
    KNOWN.iter().for_each(|slot| slot.store(EMPTY, Relaxed));
    OVERFLOWED.store(false, Relaxed);
}

/// Returns whether a path found no slot, and so was never injected.
pub fn paths_overflowed() -> bool {
    OVERFLOWED.load(Relaxed)
}
