//! What is left after a round, and how fast the machine is: numbers that must not drift.

use crate::fixture::take_all;
use addr::{PAGE_SIZE, Size};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;
use dma_api::{Attrs, Direction, DmaError, StreamMemory};
use kernel::devices;
use kernel::dma::counters;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Device};
use kernel::memory::{heap, table_frames, zones};
use kernel::sched::time;
use memory::{Reach, Zone};

/// Rounds that a verdict needs at least: with fewer the first ones and the last ones would be the same.
pub const FEWEST: usize = WARM + ENDS + 1;
/// Rounds after which the first use of everything is over.
const WARM: usize = 1;
/// Rounds at each end that are compared: the best of them counts, since others use the host too.
const ENDS: usize = 3;
/// What the heap may hold more at the end: what a thread that just went has not given back yet.
const HEAP_ROOM: u64 = 8 << 10;
/// Page tables that devices may keep more at the end: an empty one for each domain.
const TABLES_ROOM: u64 = 64;

/// The numbers.
#[derive(Clone, Copy)]
pub struct State {
    low_frames: u64,
    high_frames: u64,
    heap: u64,
    all_tables: u64,
    device_tables: u64,
    ranges: u64,
    /// The time for the same work, in thousandths of the time for some arithmetic.
    pace: u64,
}

impl State {
    /// The numbers now. Nothing else runs.
    pub fn now() -> Result<Self, String> {
        // Frames that CPUs keep make their blocks partly free ones, of which the heap has the books; how many differs. A
        // zone that runs out gets them back.
        for reach in [Reach::HIGH, Reach::LOW] {
            zones::free_all(take_all(reach));
        }
        let used = |zone| zones::stats(zone).allocated;
        let counters = counters::read();
        Ok(Self {
            low_frames: used(Zone::Low),
            high_frames: used(Zone::High),
            heap: heap::usage().0 as u64,
            all_tables: table_frames::usage().0,
            device_tables: counters.table_pages.now,
            ranges: counters.iova_ranges.now,
            pace: pace()?,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low_frames, high_frames, heap, all_tables, device_tables, ranges, pace } = self;
        write!(f, "frames {low_frames} low {high_frames} high, heap {}, tables {all_tables} ", Size(*heap))?;
        write!(f, "({device_tables} devices'), {ranges} ranges, pace {pace}")
    }
}

type Number = fn(&State) -> u64;

/// The numbers of the rounds that are compared. It takes the same room however many there are: it is in the heap's number.
#[derive(Default)]
pub struct History {
    rounds: usize,
    first: [Option<State>; ENDS],
    /// The newest is behind the others.
    last: [Option<State>; ENDS],
}

impl History {
    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// One round more.
    pub fn push(&mut self, state: State) {
        if let Some(place) = self.rounds.checked_sub(WARM).and_then(|index| self.first.get_mut(index)) {
            *place = Some(state);
        }
        if self.rounds >= WARM {
            self.last.rotate_left(1);
            self.last[ENDS - 1] = Some(state);
        }
        self.rounds += 1;
    }

    /// No number grows from the first rounds to the last.
    ///
    /// # Errors
    /// The first that does.
    pub fn judge(&self) -> Result<(), String> {
        let numbers: [(&str, Number, u64); 5] = [
            ("frames of highmem", |state| state.high_frames, 0),
            ("bytes of the heap", |state| state.heap, HEAP_ROOM),
            ("page tables of devices", |state| state.device_tables, TABLES_ROOM),
            ("ranges of device addresses", |state| state.ranges, 0),
            // Half as slow again: the host has other things to do, in the one and in the other.
            ("times as slow as arithmetic", |state| state.pace, best(&self.first, |state| state.pace) / 2),
        ];
        for (what, number, room) in numbers {
            let (before, after) = (best(&self.first, number), best(&self.last, number));
            if after > before + room {
                return Err(format!("{before} {what} became {after}"));
            }
        }
        Ok(())
    }
}

fn best(states: &[Option<State>], number: Number) -> u64 {
    states.iter().flatten().map(number).min().unwrap_or(0)
}

/// How long the same work takes, against arithmetic alone: the best of many tries of both, in turns. Each is short, so that
/// a host with other work leaves some of them alone.
fn pace() -> Result<u64, String> {
    const TRIES: usize = 100;
    let Some(device) = devices::dma_engines().next().map(|engine| engine.device().clone()) else {
        return Ok(0);
    };
    let (mut work, mut arithmetic) = (u64::MAX, u64::MAX);
    for _ in 0..TRIES {
        let start = time::now();
        same_work(&device).map_err(|error| error.to_string())?;
        let between = time::now();
        steps(100_000);
        (work, arithmetic) = (work.min(between - start), arithmetic.min(time::now() - between));
    }
    Ok(work * 1000 / arithmetic.max(1))
}

/// So many steps that no memory is needed for.
fn steps(count: u64) {
    let mut number = count;
    for _ in 0..count {
        number = core::hint::black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number >> 7);
    }
}

fn same_work(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    for round in 0..8 {
        let lent = stream::map(device, page, Direction::Bidirectional).map_err(|refused| refused.error)?;
        page = lent.unmap()?;
        drop(dma::alloc(device, PAGE_SIZE << round, Attrs::NO_KERNEL_MAPPING)?);
    }
    // With a view of the kernel's, which one piece would have anyway.
    drop(dma::alloc(device, 4 * PAGE_SIZE, Attrs::ALLOC_SINGLE_PAGES)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State = State {
        low_frames: 1,
        high_frames: 2,
        heap: 1 << 20,
        all_tables: 3,
        device_tables: 3,
        ranges: 4,
        pace: 1000,
    };

    fn judge(states: &[State]) -> Result<(), String> {
        let mut history = History::default();
        states.iter().for_each(|state| history.push(*state));
        assert_eq!(history.rounds(), states.len());
        history.judge()
    }

    #[test]
    fn what_stays_passes_and_what_grows_is_named() {
        let grown = |grow: fn(&mut State)| {
            let mut states = [STATE; 10];
            states[7..].iter_mut().for_each(grow);
            judge(&states)
        };
        assert_eq!(grown(|_| {}), Ok(()));
        assert_eq!(grown(|state| state.heap += HEAP_ROOM), Ok(()));
        assert_eq!(
            grown(|state| state.heap += HEAP_ROOM + 1).unwrap_err(),
            "1048576 bytes of the heap became 1056769"
        );
        assert_eq!(grown(|state| state.ranges += 1).unwrap_err(), "4 ranges of device addresses became 5");
        assert_eq!(grown(|state| state.pace = 1500), Ok(()));
        assert!(grown(|state| state.pace = 1501).is_err());
    }

    #[test]
    fn what_grows_by_the_least_is_named_after_the_fewest_rounds() {
        let mut states = [STATE; FEWEST];
        assert_eq!(judge(&states), Ok(()));
        states[FEWEST - ENDS..].iter_mut().for_each(|state| state.ranges += 1);
        assert!(judge(&states).is_err());
    }

    #[test]
    fn one_slow_round_and_the_first_one_do_not_count() {
        let mut states = [STATE; 6];
        states[5].pace = 9000;
        states[0].pace = 1;
        assert_eq!(judge(&states), Ok(()));
    }
}
