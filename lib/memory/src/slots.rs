//! A lock-free allocator of 512 slots: a bitmap shared by all CPUs.

use crate::sync::{AtomicU64, Ordering};

/// The slots of one table, for example. All are free at first.
///
/// Slots are allocated in runs aligned to the power of two at or above their length, so that a run never
/// crosses a word and one compare-and-exchange allocates it. Each word has its own cache line, and each CPU
/// starts its search at its own word: CPUs do not contend as long as their words have free slots.
///
/// A bitmap, not a LIFO list such as [`Magazine`](crate::Magazine): slots have fixed places and are allocated
/// in runs, and any CPU frees a slot without a lock.
#[derive(Debug)]
pub struct Slots {
    words: [SlotWord; WORDS],
}

#[derive(Debug)]
#[repr(align(64))]
struct SlotWord(AtomicU64);

const WORDS: usize = 8;

/// The bits where a run may start, by log2 of its alignment.
const STARTS: [u64; 7] =
    [u64::MAX, u64::MAX / 0x3, u64::MAX / 0xf, u64::MAX / 0xff, u64::MAX / 0xffff, u64::MAX / 0xffff_ffff, 1];

impl Slots {
    /// The number of slots.
    pub const COUNT: usize = WORDS * 64;
    /// The length of the longest run.
    pub const MAX_RUN: u32 = 64;

    /// Slots that are all free.
    pub fn new() -> Self {
        Self { words: core::array::from_fn(|_| SlotWord(AtomicU64::new(u64::MAX))) }
    }

    /// Allocates a run of `len` slots (1 to [`Slots::MAX_RUN`]) and returns the first. `home` is the word
    /// where the search starts. Everything that the previous owner did before [`Slots::free`] happens before
    /// this returns.
    #[inline]
    pub fn alloc(&self, len: u32, home: usize) -> Option<usize> {
        debug_assert!((1..=Self::MAX_RUN).contains(&len), "{len} slots");
        let word = home % WORDS;
        match self.words[word].alloc(len) {
            Some(bit) => Some(word * 64 + bit as usize),
            None => self.alloc_elsewhere(len, word),
        }
    }

    #[cold]
    fn alloc_elsewhere(&self, len: u32, home: usize) -> Option<usize> {
        (1..WORDS).map(|n| (home + n) % WORDS).find_map(|word| {
            let bit = self.words[word].alloc(len)?;
            Some(word * 64 + bit as usize)
        })
    }

    /// Frees the run of `len` slots from `first` on, which one [`Slots::alloc`] returned.
    ///
    /// # Panics
    /// If one of them is free.
    #[inline]
    pub fn free(&self, first: usize, len: u32) {
        let run = (u64::MAX >> (64 - len)) << (first % 64);
        let before = self.words[first / 64].0.fetch_or(run, Ordering::Release);
        assert!(before & run == 0, "slot {first} freed twice");
    }

    /// Whether the slot is allocated.
    pub fn is_allocated(&self, slot: usize) -> bool {
        self.words[slot / 64].0.load(Ordering::Relaxed) & 1 << (slot % 64) == 0
    }

    /// The number of free slots.
    pub fn free_count(&self) -> u32 {
        self.words.iter().map(|word| word.0.load(Ordering::Relaxed).count_ones()).sum()
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl SlotWord {
    #[inline]
    fn alloc(&self, len: u32) -> Option<u32> {
        let mut free = self.0.load(Ordering::Relaxed);
        loop {
            let starts = starts(free, len);
            if starts == 0 {
                return None;
            }
            let bit = starts.trailing_zeros();
            let left = free & !((u64::MAX >> (64 - len)) << bit);
            match self.0.compare_exchange_weak(free, left, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(bit),
                Err(now) => free = now,
            }
        }
    }
}

/// The bits of `free` where an aligned run of `len` set bits starts.
#[inline]
fn starts(free: u64, len: u32) -> u64 {
    if len == 1 {
        return free;
    }
    let log2 = len.next_power_of_two().trailing_zeros();
    let (mut starts, mut width) = (free, 1);
    // A run of free slots as long as its alignment; the slots after a shorter run remain free for shorter
    // runs.
    while width < 1 << log2 {
        starts &= starts >> width;
        width *= 2;
    }
    starts & STARTS[log2 as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU8;

    #[test]
    fn every_slot_is_allocated_once() {
        let slots = Slots::new();
        let all: BTreeSet<_> = (0..Slots::COUNT).map(|_| slots.alloc(1, 3).unwrap()).collect();
        assert_eq!((all.len(), slots.alloc(1, 0), slots.free_count()), (Slots::COUNT, None, 0));
        slots.free(77, 1);
        assert_eq!((slots.alloc(1, 0), slots.alloc(1, 0)), (Some(77), None));
    }

    #[test]
    fn runs_are_aligned_and_do_not_overlap() {
        // Miri is a thousand times slower.
        for len in (1..=Slots::MAX_RUN).step_by(if cfg!(miri) { 21 } else { 1 }) {
            let (slots, align) = (Slots::new(), len.next_power_of_two() as usize);
            let mut taken = BTreeSet::new();
            while let Some(first) = slots.alloc(len, len as usize) {
                assert_eq!(first % align, 0, "{len}");
                assert!((first..first + len as usize).all(|slot| taken.insert(slot)), "{len} at {first}");
            }
            assert!(slots.free_count() as usize == Slots::COUNT - taken.len());
            assert_eq!(taken.len(), Slots::COUNT / align * len as usize, "{len}");
            for first in (0..Slots::COUNT).step_by(align) {
                slots.free(first, len);
            }
            assert_eq!(slots.free_count() as usize, Slots::COUNT);
        }
    }

    #[test]
    fn slots_of_a_run_are_allocated_until_it_is_freed() {
        let slots = Slots::new();
        let first = slots.alloc(3, 5).unwrap();
        let taken = || (0..Slots::COUNT).filter(|&slot| slots.is_allocated(slot)).collect::<Vec<_>>();
        assert_eq!(taken(), [first, first + 1, first + 2]);
        slots.free(first, 3);
        assert_eq!(taken(), []);
    }

    #[test]
    fn slots_behind_a_run_serve_shorter_runs() {
        let slots = Slots::new();
        let three = slots.alloc(3, 0).unwrap();
        assert_eq!(slots.alloc(1, 0), Some(three + 3));
        assert_eq!(slots.alloc(2, 0), Some(three + 4));
    }

    #[test]
    #[should_panic(expected = "slot 9 freed twice")]
    fn double_free_of_a_slot_panics() {
        let slots = Slots::new();
        slots.alloc(16, 0).unwrap();
        slots.free(9, 1);
        slots.free(9, 1);
    }

    #[test]
    fn threads_never_own_the_same_slot() {
        const ROUNDS: u32 = if cfg!(miri) { 50 } else { 20_000 };
        let slots = Slots::new();
        let owners: Vec<_> = (0..Slots::COUNT).map(|_| AtomicU8::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (slots, owners) = (&slots, &owners);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let len = 1 + (round * 7 + thread) % 16;
                        // All threads start at the same word, so that they contend.
                        let Some(first) = slots.alloc(len, 0) else { continue };
                        let mine = &owners[first..first + len as usize];
                        assert!(mine.iter().all(|owner| owner.swap(1, Ordering::Relaxed) == 0));
                        mine.iter().for_each(|owner| owner.store(0, Ordering::Relaxed));
                        slots.free(first, len);
                    }
                });
            }
        });
        assert_eq!(slots.free_count() as usize, Slots::COUNT);
    }
}
