//! The places that mask interrupts for the longest time, and the tests in which they do.

use alloc::vec::Vec;
use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use kernel::kprintln;
use kernel::percpu::{MAX_CPUS, PerCpu};
use kernel::sync::SpinLock;

/// The number of places in the record.
const PLACES: usize = 16;

/// A place that masks interrupts, and the longest time from there, in ticks of the counter.
type Stretch = (&'static Location<'static>, u64);

/// The places with the longest stretches.
type Places = [Option<Stretch>; PLACES];

static RECORD: SpinLock<Places> = SpinLock::new([None; PLACES]);
/// Set while the CPU runs the action of an [`exempt`].
static EXEMPT: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Adds a stretch of this CPU, whose interrupts are still masked.
pub(super) fn add(site: &'static Location<'static>, ticks: u64) {
    if !EXEMPT.this().load(Relaxed) {
        insert(&mut RECORD.lock(), (site, ticks));
    }
}

/// Replaces the stretch of the same place if it is shorter, else a free or the shortest place.
fn insert(places: &mut Places, (site, ticks): Stretch) {
    let ticks_of = |place: &Option<Stretch>| place.map_or(0, |(_, ticks)| ticks);
    let same = places.iter().position(|place| place.is_some_and(|(other, _)| ptr::eq(other, site)));
    let shortest = (0..PLACES).min_by_key(|&n| ticks_of(&places[n])).unwrap_or(0);
    let slot = &mut places[same.unwrap_or(shortest)];
    if ticks > ticks_of(slot) {
        *slot = Some((site, ticks));
    }
}

/// Runs `action`, which must not sleep, without a limit on the time with interrupts masked.
pub fn exempt<R>(action: impl FnOnce() -> R) -> R {
    let exempt = EXEMPT.this();
    exempt.store(true, Relaxed);
    let result = action();
    assert!(ptr::eq(exempt, EXEMPT.this()), "the thread has moved to another CPU");
    exempt.store(false, Relaxed);
    result
}

/// Removes and returns the longest stretches since the last call, in no order.
fn take_longest() -> Places {
    core::mem::replace(&mut *RECORD.lock(), [None; PLACES])
}

/// The longest stretch of each place, with the name of the test.
pub struct LongestStretches(Vec<(Stretch, &'static str)>);

impl LongestStretches {
    /// Discards the stretches so far, those of boot.
    pub fn start() -> Self {
        take_longest();
        Self(Vec::new())
    }

    /// Adds the stretches during `test`, which has ended.
    pub fn add(&mut self, test: &'static str) {
        for (site, ticks) in take_longest().into_iter().flatten() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn longest_stretch_of_each_place_is_kept() {
        let (one, two) = (here(), here());
        let mut places = [None; PLACES];
        for (site, ticks) in [(one, 5), (two, 9), (one, 7), (two, 3)] {
            insert(&mut places, (site, ticks));
        }
        let found: Vec<_> = places.iter().flatten().map(|(_, ticks)| *ticks).collect();
        assert_eq!(found, [7, 9]);
    }

    #[test]
    fn stretch_of_an_exempt_action_is_not_recorded() {
        take_longest();
        exempt(|| add(here(), 7));
        assert!(take_longest().iter().all(Option::is_none));
        add(here(), 8);
        assert_eq!(take_longest().into_iter().flatten().map(|(_, ticks)| ticks).max(), Some(8));
    }
}
