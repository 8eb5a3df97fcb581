//! A mutation-based fuzzer. An input with a new outcome is added to the corpus: the outcome takes the place
//! of the coverage feedback of fuzzers that instrument the code.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The longest generated input.
const MAX_INPUT: usize = 64 << 10;
/// The time limit of an input.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Boundary values, inserted in either byte order.
const BOUNDARY_VALUES: [u64; 12] =
    [0, 1, 7, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 63, u64::MAX];

pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % end.max(1)
    }

    /// A copy of a corpus entry with several changes.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..1 + self.below(6) {
            self.change(&mut input, corpus);
        }
        input.truncate(MAX_INPUT);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if input.is_empty() {
            input.push(self.below(256) as u8);
        }
        let at = self.below(input.len());
        match self.below(8) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = self.below(256) as u8,
            2 | 3 => self.insert_boundary_value(input, at),
            4 => input.truncate(at),
            5 => drop(input.drain(at..(at + 1 + self.below(16)).min(input.len()))),
            6 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len());
                let piece = &other[from..(from + 1 + self.below(64)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let end = (at + 1 + self.below(64)).min(input.len()).min(other.len());
                if at < end {
                    input[at..end].copy_from_slice(&other[at..end]);
                }
            }
        }
    }

    fn insert_boundary_value(&mut self, input: &mut [u8], at: usize) {
        let width = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
        let edge = BOUNDARY_VALUES[self.below(BOUNDARY_VALUES.len())]
            .wrapping_add(self.below(3) as u64)
            .wrapping_sub(1);
        let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
        let bytes = if self.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
        input[at..at + width].copy_from_slice(bytes);
    }
}

/// Processes an input and returns a text that describes the outcome; must not panic.
pub type FuzzTarget = fn(&[u8]) -> String;

/// Statistics of a run.
#[derive(Debug)]
pub struct FuzzStatistics {
    pub inputs: u64,
    /// Distinct outcomes.
    pub outcomes: usize,
}

/// Runs `target` on `seeds` and on mutations of them for `time`. Panics with the input if the target panics
/// or exceeds the time limit.
pub fn fuzz(target: FuzzTarget, seeds: Vec<Vec<u8>>, seed: u64, time: Duration) -> FuzzStatistics {
    let mut seen: HashSet<u64> = seeds.iter().map(|input| outcome(target, input)).collect();
    let (mut corpus, mut inputs) = (seeds, 0);
    let (mut mutator, start) = (Mutator::new(seed), Instant::now());
    while start.elapsed() < time {
        let input = mutator.mutate(&corpus);
        inputs += 1;
        if seen.insert(outcome(target, &input)) && corpus.len() < 4096 {
            corpus.push(input);
        }
    }
    FuzzStatistics { inputs, outcomes: seen.len() }
}

fn outcome(target: FuzzTarget, input: &[u8]) -> u64 {
    /// A slow host does not exceed the limit this many times in a row.
    const TRIES: usize = 3;
    let (mut elapsed, mut trace) = timed(target, input);
    for _ in 1..TRIES {
        if elapsed < TIME_LIMIT {
            break;
        }
        (elapsed, trace) = timed(target, input);
    }
    assert!(elapsed < TIME_LIMIT, "{elapsed:?}: {}", hex(input));
    let mut hasher = DefaultHasher::new();
    // Digits are skipped, so that only the kind of outcome counts.
    trace.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| byte.hash(&mut hasher));
    hasher.finish()
}

fn timed(target: FuzzTarget, input: &[u8]) -> (Duration, String) {
    let start = Instant::now();
    let trace = catch_unwind(AssertUnwindSafe(|| target(input)))
        .unwrap_or_else(|_| panic!("the target panics: {}", hex(input)));
    (start.elapsed(), trace)
}

/// The input in hexadecimal, to be stored as a seed: `xxd -r -p > kernel/tests/fuzz/seeds/TARGET-...`.
fn hex(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}
