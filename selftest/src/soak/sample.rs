//! Resource usage and speed after a round: numbers that must not grow from the first rounds to the last.

use crate::fixture::allocate_all;
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
use kernel::vm::pages;
use memory::{Reach, Zone};

/// The least number of rounds: with fewer, the first and the last compared rounds would be the same.
pub const MIN_ROUNDS: usize = WARM_UP_ROUNDS + COMPARED_ROUNDS + 1;
/// Rounds at the start that are not compared, since they allocate memory that is kept.
const WARM_UP_ROUNDS: usize = 1;
/// Rounds at each end that are compared. The minimum of each counts, since other programs use the host too.
const COMPARED_ROUNDS: usize = 3;
/// The growth of the heap in bytes that is tolerated: memory that an ended thread has not released yet.
const HEAP_TOLERANCE: u64 = 8 << 10;
/// The growth in page tables of devices that is tolerated: an empty one for each domain.
const TABLE_TOLERANCE: u64 = 64;

/// Resource usage and speed at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    low_frames: u64,
    high_frames: u64,
    heap: u64,
    all_tables: u64,
    device_tables: u64,
    iova_ranges: u64,
    /// The time of a fixed workload, in thousandths of the time of a fixed amount of arithmetic.
    relative_time: u64,
}

impl Sample {
    /// Takes a sample. No other thread may use memory or devices meanwhile.
    pub fn now() -> Result<Self, String> {
        // Frames in the per-CPU magazines leave partly free blocks, whose accounting is in the heap, and
        // their number varies. Exhausting a zone returns them to it.
        for reach in [Reach::HIGH, Reach::LOW] {
            zones::free_all(allocate_all(reach));
        }
        let used = |zone| zones::stats(zone).allocated;
        let counters = counters::read();
        Ok(Self {
            low_frames: used(Zone::Low),
            high_frames: used(Zone::High),
            // Records are allocated with the first use of each block of memory, and kept.
            heap: (heap::usage().0 - pages::record_bytes()) as u64,
            all_tables: table_frames::usage().now,
            device_tables: counters.table_pages.now,
            iova_ranges: counters.iova_ranges.now,
            relative_time: relative_time()?,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low_frames, high_frames, heap, all_tables, device_tables, iova_ranges, relative_time } =
            self;
        write!(f, "frames {low_frames} low {high_frames} high, heap {}, tables {all_tables} ", Size(*heap))?;
        write!(f, "({device_tables} of devices), {iova_ranges} IOVA ranges, relative time {relative_time}")
    }
}

type Field = fn(&Sample) -> u64;

/// The samples of the compared rounds. Of constant size, since it lives on the heap whose growth is measured.
#[derive(Default)]
pub struct History {
    rounds: usize,
    first: [Option<Sample>; COMPARED_ROUNDS],
    /// Oldest first.
    last: [Option<Sample>; COMPARED_ROUNDS],
}

impl History {
    /// Returns the number of rounds.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Adds the sample of a round.
    pub fn push(&mut self, sample: Sample) {
        let slot = self.rounds.checked_sub(WARM_UP_ROUNDS).and_then(|index| self.first.get_mut(index));
        if let Some(slot) = slot {
            *slot = Some(sample);
        }
        if self.rounds >= WARM_UP_ROUNDS {
            self.last.rotate_left(1);
            self.last[COMPARED_ROUNDS - 1] = Some(sample);
        }
        self.rounds += 1;
    }

    /// Checks that no number has grown beyond its tolerance from the first rounds to the last.
    ///
    /// # Errors
    /// Names the first number that has.
    pub fn check_growth(&self) -> Result<(), String> {
        let fields: [(&str, Field, u64); 5] = [
            ("frames of highmem", |sample| sample.high_frames, 0),
            ("bytes of the heap", |sample| sample.heap, HEAP_TOLERANCE),
            ("page tables of devices", |sample| sample.device_tables, TABLE_TOLERANCE),
            ("IOVA ranges", |sample| sample.iova_ranges, 0),
            // 50 %: load on the host affects the workload and the arithmetic differently.
            (
                "relative time",
                |sample| sample.relative_time,
                min(&self.first, |sample| sample.relative_time) / 2,
            ),
        ];
        for (name, field, tolerance) in fields {
            let (before, after) = (min(&self.first, field), min(&self.last, field));
            if after > before + tolerance {
                return Err(format!("{name} grew from {before} to {after}"));
            }
        }
        Ok(())
    }
}

fn min(samples: &[Option<Sample>], field: Field) -> u64 {
    samples.iter().flatten().map(field).min().unwrap_or(0)
}

/// Returns the time of the fixed workload relative to arithmetic, in thousandths: the minimum of many short
/// runs of each, in turn, so that some of them are not disturbed by other programs of the host.
fn relative_time() -> Result<u64, String> {
    const RUNS: usize = 100;
    let Some(device) = devices::dma_engines().next().map(|engine| engine.device().clone()) else {
        return Ok(0);
    };
    let (mut workload, mut arithmetic) = (u64::MAX, u64::MAX);
    for _ in 0..RUNS {
        let start = time::now();
        run_workload(&device).map_err(|error| error.to_string())?;
        let between = time::now();
        run_arithmetic(100_000);
        (workload, arithmetic) = (workload.min(between - start), arithmetic.min(time::now() - between));
    }
    Ok(workload * 1000 / arithmetic.max(1))
}

/// Computes `steps` steps in registers.
fn run_arithmetic(steps: u64) {
    let mut number = steps;
    for _ in 0..steps {
        number = core::hint::black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number >> 7);
    }
}

fn run_workload(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    for round in 0..8 {
        let mapping = stream::map(device, page, Direction::Bidirectional).map_err(|refused| refused.error)?;
        page = mapping.unmap()?;
        drop(dma::alloc(device, PAGE_SIZE << round, Attrs::NO_KERNEL_MAPPING)?);
    }
    // With a kernel view in vmalloc; a single chunk of lowmem would be viewed through the linear map.
    drop(dma::alloc(device, 4 * PAGE_SIZE, Attrs::ALLOC_SINGLE_PAGES)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample {
        low_frames: 1,
        high_frames: 2,
        heap: 1 << 20,
        all_tables: 3,
        device_tables: 3,
        iova_ranges: 4,
        relative_time: 1000,
    };

    fn check_growth(samples: &[Sample]) -> Result<(), String> {
        let mut history = History::default();
        samples.iter().for_each(|sample| history.push(*sample));
        assert_eq!(history.rounds(), samples.len());
        history.check_growth()
    }

    #[test]
    fn growth_beyond_its_tolerance_is_reported_by_name() {
        let grown = |grow: fn(&mut Sample)| {
            let mut samples = [SAMPLE; 10];
            samples[7..].iter_mut().for_each(grow);
            check_growth(&samples)
        };
        assert_eq!(grown(|_| {}), Ok(()));
        assert_eq!(grown(|sample| sample.heap += HEAP_TOLERANCE), Ok(()));
        assert_eq!(
            grown(|sample| sample.heap += HEAP_TOLERANCE + 1).unwrap_err(),
            "bytes of the heap grew from 1048576 to 1056769"
        );
        assert_eq!(grown(|sample| sample.iova_ranges += 1).unwrap_err(), "IOVA ranges grew from 4 to 5");
        assert_eq!(grown(|sample| sample.relative_time = 1500), Ok(()));
        assert!(grown(|sample| sample.relative_time = 1501).is_err());
    }

    #[test]
    fn growth_is_detected_with_the_least_number_of_rounds() {
        let mut samples = [SAMPLE; MIN_ROUNDS];
        assert_eq!(check_growth(&samples), Ok(()));
        samples[MIN_ROUNDS - COMPARED_ROUNDS..].iter_mut().for_each(|sample| sample.iova_ranges += 1);
        assert!(check_growth(&samples).is_err());
    }

    #[test]
    fn one_slow_round_and_the_warm_up_round_are_ignored() {
        let mut samples = [SAMPLE; 6];
        samples[5].relative_time = 9000;
        samples[0].relative_time = 1;
        assert_eq!(check_growth(&samples), Ok(()));
    }
}
