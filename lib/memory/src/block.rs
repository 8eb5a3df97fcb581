//! The free chunks inside one 2 MiB block: a buddy allocator on a bitmap with one bit per possible chunk.

use crate::split::{buddies, fit};
use addr::Order;
use core::ops::Range;

/// The number of orders, all below that of the whole block.
pub(crate) const ORDERS: usize = Order::BLOCK_2M.log2() as usize;

/// A partly free block.
///
/// A chunk's bit is set when exactly this chunk is free: not only a part of it, and not as part of a larger
/// free chunk.
#[derive(Debug)]
pub(crate) struct Block {
    /// The bits of order 0, then those of order 1, and so on: 1022 bits.
    bits: [u64; 16],
    /// A bit for each order with a free chunk.
    orders: u16,
}

/// A part of a free chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FreePart {
    /// The order of the free chunk.
    from: usize,
    /// The order of the part.
    order: usize,
    /// Its first frame, relative to the block.
    first: u64,
}

/// log2 of [`RUN`].
const RUN_ORDER: usize = 6;
/// Frames in a run: their bits of order 0 are one word.
pub(crate) const RUN: usize = 1 << RUN_ORDER;

impl Block {
    /// A block without a free frame.
    pub(crate) const fn allocated() -> Self {
        Self { bits: [0; 16], orders: 0 }
    }

    /// The order of the largest free chunk.
    pub(crate) fn largest(&self) -> Option<usize> {
        self.orders.checked_ilog2().map(|order| order as usize)
    }

    /// Takes a chunk of 2^`order` frames from the smallest free chunk that is large enough, the lowest of
    /// that order. Returns its first frame, relative to the block.
    pub(crate) fn alloc(&mut self, order: usize) -> Option<usize> {
        let enough = self.orders >> order;
        if enough == 0 {
            return None;
        }
        let from = order + enough.trailing_zeros() as usize;
        let mut index = self.lowest(from)?;
        self.clear(from, index);
        for half in (order..from).rev() {
            index *= 2;
            self.set(half, index + 1);
        }
        Some(index << order)
    }

    /// Finds a chunk of 2^`order` frames inside `wanted`, for [`Block::take`]; as [`Block::alloc`] chooses
    /// it.
    pub(crate) fn find_within(&self, order: usize, wanted: &Range<u64>) -> Option<FreePart> {
        let mut enough = self.chunks().filter(|&(_, from)| from >= order);
        enough.find_map(|(run, from)| {
            Some(FreePart { from, order, first: fit(run as u64, from, order, wanted)? })
        })
    }

    /// Takes a part that [`Block::find_within`] found. Returns its first frame.
    pub(crate) fn take(&mut self, FreePart { from, order, first }: FreePart) -> u64 {
        self.clear(from, first as usize >> from);
        buddies(first, order, from).for_each(|(buddy, half)| self.set(half, buddy as usize >> half));
        first
    }

    /// Frees a chunk. Returns whether the whole block is free now: then no bit is set, and the caller takes
    /// the block over.
    pub(crate) fn free(&mut self, first: usize, order: usize) -> bool {
        let mut index = first >> order;
        for order in order..ORDERS {
            if !self.is_set(order, index ^ 1) {
                self.set(order, index);
                return false;
            }
            self.clear(order, index ^ 1);
            index /= 2;
        }
        true
    }

    /// Allocates at most `wanted` (not 0) single frames of one run, from the smallest free chunks: the run,
    /// and a bit for each allocated frame.
    pub(crate) fn alloc_pages(&mut self, wanted: u32) -> Option<(usize, u64)> {
        if self.orders & 1 == 0 {
            let smallest = self.orders.trailing_zeros();
            let order = (wanted.ilog2().min(smallest) as usize).min(RUN_ORDER);
            let first = self.alloc(order)?;
            return Some((first / RUN, ones(1 << order) << (first % RUN)));
        }
        let run = self.bits[..1 << (ORDERS - RUN_ORDER)].iter().position(|&word| word != 0)?;
        let pages = lowest_ones(self.bits[run], wanted);
        self.bits[run] &= !pages;
        self.note_cleared(0, run);
        Some((run, pages))
    }

    /// Frees single frames of one run together. Returns whether the whole block is free now, as
    /// [`free`](Self::free) does.
    pub(crate) fn free_pages(&mut self, run: usize, pages: u64) -> bool {
        // The chunks of an order that become free; two buddies become one chunk of the next order.
        let mut back = pages;
        for order in 0..RUN_ORDER {
            let bit = base(order) + (run << (RUN_ORDER - order));
            let (word, shift) = (bit / 64, bit % 64);
            let before = self.bits[word] >> shift & ones(RUN >> order);
            debug_assert!(
                before & back == 0,
                "chunks {back:#x} of order {order} in run {run} are free already"
            );
            let all = before | back;
            let pairs = all & all >> 1 & EVEN;
            let rest = all & !(pairs | pairs << 1);
            self.bits[word] ^= (before ^ rest) << shift;
            if rest != 0 {
                self.orders |= 1 << order;
            } else if before != 0 {
                self.note_cleared(order, word);
            }
            if pairs == 0 {
                return false;
            }
            back = even_bits(pairs);
        }
        self.free(run * RUN, RUN_ORDER)
    }

    /// The lowest free chunk of an order.
    fn lowest(&self, order: usize) -> Option<usize> {
        (base(order) / 64..=(base(order + 1) - 1) / 64).find_map(|word| self.lowest_in(order, word))
    }

    /// The lowest free chunk of an order whose bit is in `word`, which has bits of that order.
    fn lowest_in(&self, order: usize, word: usize) -> Option<usize> {
        // Bits of smaller orders precede, bits of larger orders follow.
        let (start, end) = (base(order).max(word * 64), base(order + 1).min(word * 64 + 64));
        let bits = self.bits[word] >> (start % 64) & ones(end - start);
        (bits != 0).then(|| start - base(order) + bits.trailing_zeros() as usize)
    }

    /// The free chunks: the first frame, relative to the block, and the order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let orders = (0..ORDERS).filter(|order| self.orders >> order & 1 == 1);
        orders.flat_map(move |order| {
            let free = (0..1 << (ORDERS - order)).filter(move |&index| self.is_set(order, index));
            free.map(move |index| (index << order, order))
        })
    }

    fn is_set(&self, order: usize, index: usize) -> bool {
        let bit = base(order) + index;
        self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn set(&mut self, order: usize, index: usize) {
        debug_assert!(!self.is_set(order, index), "chunk {index} of order {order} is free already");
        let bit = base(order) + index;
        self.bits[bit / 64] |= 1 << (bit % 64);
        self.orders |= 1 << order;
    }

    fn clear(&mut self, order: usize, index: usize) {
        let bit = base(order) + index;
        self.bits[bit / 64] &= !(1 << (bit % 64));
        self.note_cleared(order, bit / 64);
    }

    /// Updates `orders` after bits of `order` in `word` were cleared.
    fn note_cleared(&mut self, order: usize, word: usize) {
        // Words at the border of two orders have bits of both, so the word is searched first, then the
        // others.
        if self.lowest_in(order, word).is_none() && self.lowest(order).is_none() {
            self.orders &= !(1 << order);
        }
    }
}

/// The even bits.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// The lowest `count` bits.
fn ones(count: usize) -> u64 {
    u64::MAX >> (64 - count)
}

/// The lowest `count` set bits of `word`.
fn lowest_ones(word: u64, count: u32) -> u64 {
    if word.count_ones() <= count {
        return word;
    }
    let mut others = word;
    (0..count).for_each(|_| others &= others - 1);
    word ^ others
}

/// Compresses the even bits of `bits`, whose odd bits are 0, into the lower half.
fn even_bits(bits: u64) -> u64 {
    let mut bits = bits;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits
}

/// The index of the first bit of an order: order 0 has 512 bits, each next order half as many.
const fn base(order: usize) -> usize {
    1024 - (1024 >> order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages(block: &mut Block) -> Vec<usize> {
        core::iter::from_fn(|| block.alloc(0)).collect()
    }

    #[test]
    fn each_frame_is_allocated_and_freed_once() {
        let mut block = Block::allocated();
        assert_eq!((block.largest(), block.alloc(0)), (None, None));
        assert!((0..511).all(|page| !block.free(page, 0)));
        assert_eq!(block.largest(), Some(8));
        let mut taken = pages(&mut block);
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..511));
        let all: Vec<bool> = (0..512).map(|page| block.free(page, 0)).collect();
        assert_eq!((all.iter().filter(|&&whole| whole).count(), all[511], block.largest()), (1, true, None));
    }

    #[test]
    fn smallest_sufficient_chunk_is_split() {
        let mut block = Block::allocated();
        block.free(256, 8);
        block.free(8, 2);
        assert_eq!(block.alloc(1), Some(8));
        assert_eq!(block.alloc(1), Some(10));
        assert_eq!(block.alloc(1), Some(256));
        assert_eq!((block.alloc(7), block.alloc(8)), (Some(384), None));
        assert_eq!(block.largest(), Some(6));
        assert!(!block.free(256, 1));
        assert_eq!(block.largest(), Some(7));
    }

    #[test]
    fn part_inside_a_range_is_taken_from_the_middle_of_a_chunk() {
        let mut block = Block::allocated();
        block.free(256, 8);
        block.free(8, 2);
        let mut alloc = |order, wanted| Some(block.take(block.find_within(order, &wanted)?));
        assert_eq!(alloc(1, 0..512), Some(8), "the smallest sufficient chunk");
        assert_eq!(alloc(1, 300..400), Some(300));
        assert_eq!(alloc(4, 305..335), None, "no aligned chunk");
        assert_eq!((alloc(2, 9..12), alloc(0, 9..11)), (None, Some(10)));
        [(8, 1), (10, 0), (300, 1)].into_iter().for_each(|(first, order)| _ = block.free(first, order));
        assert_eq!((block.alloc(8), block.alloc(2), block.largest()), (Some(256), Some(8), None));
    }

    #[test]
    fn frames_of_a_run_are_allocated_and_freed_together() {
        let mut block = Block::allocated();
        assert_eq!(block.alloc_pages(64), None);
        assert!((0..8).all(|run| block.free_pages(run, u64::MAX) == (run == 7)));
        assert_eq!(block.bits, [0; 16]);
        assert!(!block.free_pages(3, EVEN));
        assert_eq!((block.largest(), block.alloc_pages(5)), (Some(0), Some((3, 0x155))));
        assert_eq!(block.alloc_pages(64), Some((3, EVEN - 0x155)));
        assert_eq!(block.largest(), None);
    }

    #[test]
    fn pages_from_a_larger_chunk_are_contiguous() {
        let mut block = Block::allocated();
        block.free(256, 8);
        assert_eq!(block.alloc_pages(64), Some((4, u64::MAX)));
        assert_eq!(block.alloc_pages(5), Some((5, 0xf)));
        block.free(0, 1);
        assert_eq!(block.alloc_pages(1), Some((0, 1)));
        assert_eq!(block.alloc_pages(64), Some((0, 2)));
        assert_eq!(block.alloc_pages(64), Some((5, 0xf0)));
    }

    #[test]
    fn even_bits_are_compressed() {
        let cases = [(0, 0), (EVEN, u64::from(u32::MAX)), (1 << 62, 1 << 31), (0b1_0100, 0b110)];
        for (bits, together) in cases {
            assert_eq!(even_bits(bits), together, "{bits:#x}");
        }
    }

    proptest! {
        /// Freeing the frames of a run together leaves the same bits as freeing them one by one.
        #[test]
        fn freeing_together_equals_freeing_one_by_one(steps in prop::collection::vec((0usize..8, any::<u64>(), any::<u64>()), 1..20)) {
            let (mut together, mut single) = (Block::allocated(), Block::allocated());
            let mut free = [0u64; 8];
            for (run, give, take) in steps {
                let back = give & !free[run];
                free[run] |= back;
                let whole = together.free_pages(run, back);
                let ones = (0..64).filter(|bit| back >> bit & 1 == 1);
                let alone = ones.fold(false, |_, bit| single.free(run * RUN + bit, 0));
                prop_assert_eq!(whole, alone);
                prop_assert_eq!((together.bits, together.orders), (single.bits, single.orders));
                if whole {
                    free = [0; 8];
                }
                if take > 0 && let Some((run, pages)) = together.alloc_pages((take % 64) as u32 + 1) {
                    prop_assert!(pages.count_ones() <= (take % 64) as u32 + 1);
                    prop_assert_eq!((pages & free[run], single.alloc_pages((take % 64) as u32 + 1)), (pages, Some((run, pages))));
                    free[run] &= !pages;
                }
            }
        }
    }

    #[test]
    fn orders_share_no_bits() {
        for order in 0..ORDERS {
            let mut block = Block::allocated();
            let last = (512 >> order) - 1;
            block.free(last << order, order);
            assert_eq!((block.largest(), block.alloc(order)), (Some(order), Some(last << order)));
            assert_eq!(block.bits, [0; 16]);
        }
    }
}
