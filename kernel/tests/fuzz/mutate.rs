//! Inputs from inputs. An input whose outcome nobody has seen before becomes one to start from: the outcome stands for what
//! other fuzzers learn from instrumented code.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The longest input that is made.
const MOST: usize = 64 << 10;
/// An input may take so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Numbers with something about them, in either order of bytes.
const EDGES: [u64; 12] =
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

    /// Some changes to a copy of one of `corpus`.
    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..1 + self.below(6) {
            self.change(&mut input, corpus);
        }
        input.truncate(MOST);
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
            2 | 3 => self.put_edge(input, at),
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

    fn put_edge(&mut self, input: &mut [u8], at: usize) {
        let width = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
        let edge = EDGES[self.below(EDGES.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1);
        let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
        let bytes = if self.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
        input[at..at + width].copy_from_slice(bytes);
    }
}

/// What a target makes of an input, in words; it must not panic.
pub type Target = fn(&[u8]) -> String;

/// What was tried.
#[derive(Debug)]
pub struct Tally {
    pub inputs: u64,
    /// Outcomes that differ.
    pub outcomes: usize,
}

/// Feeds `target` with `seeds` and with what can be made of them, for `time`. Panics with the input when the target does,
/// or when it takes too long.
pub fn fuzz(target: Target, seeds: Vec<Vec<u8>>, seed: u64, time: Duration) -> Tally {
    let mut seen: HashSet<u64> = seeds.iter().map(|input| outcome(target, input)).collect();
    let (mut corpus, mut inputs) = (seeds, 0);
    let (mut mutator, start) = (Mutator::new(seed), Instant::now());
    while start.elapsed() < time {
        let input = mutator.mutated(&corpus);
        inputs += 1;
        if seen.insert(outcome(target, &input)) && corpus.len() < 4096 {
            corpus.push(input);
        }
    }
    Tally { inputs, outcomes: seen.len() }
}

fn outcome(target: Target, input: &[u8]) -> u64 {
    /// So often in a row it is not the host that is slow.
    const TRIES: usize = 3;
    let (mut took, mut said) = timed(target, input);
    for _ in 1..TRIES {
        if took < PATIENCE {
            break;
        }
        (took, said) = timed(target, input);
    }
    assert!(took < PATIENCE, "{took:?}: {}", shown(input));
    let mut hasher = DefaultHasher::new();
    // Numbers aside: what kind of outcome it was.
    said.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| byte.hash(&mut hasher));
    hasher.finish()
}

fn timed(target: Target, input: &[u8]) -> (Duration, String) {
    let start = Instant::now();
    let said = catch_unwind(AssertUnwindSafe(|| target(input)))
        .unwrap_or_else(|_| panic!("the target panics: {}", shown(input)));
    (start.elapsed(), said)
}

/// An input that can be made into a seed: `xxd -r -p > kernel/tests/fuzz/seeds/TARGET-...`.
fn shown(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}
