//! Free chunks of 2 MiB and more, by order: a buddy allocator in units of 2 MiB blocks.

use crate::split::{buddies, fit};
use addr::Order;
use alloc::collections::BTreeSet;
use core::ops::Range;

/// The number of orders, from one block to the largest chunk.
const ORDERS: usize = (Order::MAX.log2() - Order::BLOCK_2M.log2()) as usize + 1;

/// Free runs of 2^n whole blocks.
pub(crate) struct Large {
    free: [BTreeSet<u64>; ORDERS],
}

impl Large {
    pub(crate) const fn new() -> Self {
        Self { free: [const { BTreeSet::new() }; ORDERS] }
    }

    /// Takes 2^`order` blocks from the smallest run that is large enough, the lowest of that order. Returns
    /// the first.
    pub(crate) fn alloc(&mut self, order: usize) -> Option<u64> {
        let from = (order..ORDERS).find(|&from| !self.free[from].is_empty())?;
        let first = self.free[from].pop_first()?;
        for half in order..from {
            self.free[half].insert(first + (1 << half));
        }
        Some(first)
    }

    /// As [`Large::alloc`], among the blocks `wanted`.
    pub(crate) fn alloc_within(&mut self, order: usize, wanted: &Range<u64>) -> Option<u64> {
        let (from, run, first) = (order..ORDERS).find_map(|from| {
            // A run across the start of `wanted` starts before it. Only the runs across its ends may not fit.
            let lowest = wanted.start >> from << from;
            let mut runs = self.free[from].range(lowest..wanted.end.max(lowest));
            runs.find_map(|&run| Some((from, run, fit(run, from, order, wanted)?)))
        })?;
        self.free[from].remove(&run);
        buddies(first, order, from).for_each(|(buddy, half)| _ = self.free[half].insert(buddy));
        Some(first)
    }

    /// The free runs: the first block, and the order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, usize)> {
        self.free.iter().enumerate().flat_map(|(order, runs)| runs.iter().map(move |&first| (first, order)))
    }

    /// Frees blocks, and merges them with their buddies.
    pub(crate) fn free(&mut self, mut first: u64, mut order: usize) {
        while order + 1 < ORDERS && self.free[order].remove(&(first ^ 1 << order)) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_split_and_merge() {
        let mut large = Large::new();
        (16..32).for_each(|block| large.free(block, 0));
        assert_eq!(large.alloc(4), Some(16));
        large.free(16, 4);
        assert_eq!((large.alloc(0), large.alloc(1), large.alloc(3)), (Some(16), Some(18), Some(24)));
        assert_eq!((large.alloc(2), large.alloc(1)), (Some(20), None));
        large.free(18, 1);
        large.free(16, 0);
        assert_eq!(large.alloc(2), Some(16));
        large.free(20, 2);
        large.free(16, 2);
        large.free(24, 3);
        assert_eq!(large.alloc(4), Some(16));
    }

    #[test]
    fn limited_allocation_splits_a_run_in_the_middle() {
        let mut large = Large::new();
        large.free(16, 4);
        assert_eq!(large.alloc_within(1, &(19..22)), Some(20));
        assert_eq!(large.alloc_within(1, &(19..22)), None);
        assert_eq!(large.alloc_within(0, &(19..22)), Some(19));
        assert_eq!((large.alloc_within(0, &(0..16)), large.alloc_within(0, &(32..40))), (None, None));
        assert_eq!(large.alloc_within(0, &(20..20)), None, "an empty range");
        assert_eq!(large.runs().map(|(_, order)| 1 << order).sum::<u64>(), 13);
        large.free(19, 0);
        large.free(20, 1);
        assert_eq!(large.alloc(4), Some(16), "all merged again");
    }

    #[test]
    fn runs_of_the_largest_order_do_not_merge() {
        let mut large = Large::new();
        large.free(0, ORDERS - 1);
        large.free(1 << (ORDERS - 1), ORDERS - 1);
        assert_eq!((large.alloc(ORDERS - 1), large.alloc(ORDERS - 1)), (Some(0), Some(512)));
    }
}
