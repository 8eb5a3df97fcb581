//! Allocation of numbers: LPIs, and the events of a device.

use alloc::vec::Vec;

/// The numbers from 0 on, each free or allocated.
pub(super) struct NumberSlots {
    /// A set bit is an allocated number.
    words: Vec<u64>,
    count: u32,
}

impl NumberSlots {
    /// `count` free numbers; `None` without memory.
    pub fn new(count: u32) -> Option<Self> {
        let mut words = Vec::new();
        let len = count.div_ceil(64) as usize;
        words.try_reserve_exact(len).ok()?;
        words.resize(len, 0);
        Some(Self { words, count })
    }

    fn is_used(&self, slot: u32) -> bool {
        self.words[slot as usize / 64] & 1 << (slot % 64) != 0
    }

    /// Allocates `count` consecutive numbers, of which the first is a multiple of the next power of two, as
    /// the messages of a function with several of them require (PCI 3.0, 6.8.1.6).
    pub fn allocate(&mut self, count: u32) -> Option<u32> {
        let align = count.checked_next_power_of_two()?;
        let starts = (0..self.count.saturating_sub(count.wrapping_sub(1))).step_by(align as usize);
        let first =
            starts.into_iter().find(|&first| (first..first + count).all(|slot| !self.is_used(slot)))?;
        (first..first + count).for_each(|slot| self.words[slot as usize / 64] |= 1 << (slot % 64));
        Some(first)
    }

    /// Frees allocated numbers.
    pub fn free(&mut self, first: u32, count: u32) {
        for slot in first..first + count {
            assert!(self.is_used(slot), "number {slot} is free already");
            self.words[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }

    /// The number of allocated numbers.
    pub fn used(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_to_the_next_power_of_two() {
        let mut slots = NumberSlots::new(70).unwrap();
        assert_eq!([1, 3, 2, 1].map(|count| slots.allocate(count)), [Some(0), Some(4), Some(2), Some(1)]);
        assert_eq!(slots.allocate(64), None, "65 to 70 are too few");
        slots.free(0, 1);
        slots.free(1, 3);
        slots.free(4, 3);
        assert_eq!((slots.used(), slots.allocate(64), slots.allocate(8)), (0, Some(0), None));
        assert_eq!([slots.allocate(4), slots.allocate(2), slots.allocate(1)], [Some(64), Some(68), None]);
        assert_eq!(slots.allocate(0).or(slots.allocate(u32::MAX)), None);
    }

    #[test]
    #[should_panic(expected = "number 3 is free already")]
    fn freeing_twice_panics() {
        NumberSlots::new(8).unwrap().free(3, 1);
    }
}
