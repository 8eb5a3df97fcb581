//! The free chunks inside of one 2 MiB block: a bit for each chunk that can be, and no search.

use addr::Order;

/// Orders of the chunks in here; the whole block is none of them.
pub(crate) const ORDERS: usize = Order::BLOCK_2M.log2() as usize;

/// A block of which some frames are free and some are not.
///
/// A chunk's bit is set when the chunk is free as it is: neither a part of it nor more than it.
#[derive(Debug)]
pub(crate) struct Block {
    /// The bits of order 0, then those of order 1, and so on: 1022 of them.
    bits: [u64; 16],
    /// A bit for each order that has some.
    orders: u16,
}

/// log2 of [`RUN`].
const RUN_ORDER: usize = 6;
/// Frames in a run: those whose bits of order 0 are one word.
pub(crate) const RUN: usize = 1 << RUN_ORDER;

impl Block {
    /// A block without a free frame.
    pub(crate) const fn full() -> Self {
        Self { bits: [0; 16], orders: 0 }
    }

    /// The order of the largest free chunk.
    pub(crate) fn largest(&self) -> Option<usize> {
        self.orders.checked_ilog2().map(|order| order as usize)
    }

    /// Takes a chunk of 2^`order` frames, the lowest one of the smallest that will do, and returns its first frame,
    /// counted from the block's.
    pub(crate) fn take(&mut self, order: usize) -> Option<usize> {
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

    /// Takes a chunk back. Whether the whole block is free now: then it has no bit set, and belongs to somebody else.
    pub(crate) fn give(&mut self, first: usize, order: usize) -> bool {
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

    /// Takes some single frames, `wanted` (not 0) at most, that lie in one run: which run, and a bit for each. They come
    /// from the smallest chunks.
    pub(crate) fn take_pages(&mut self, wanted: u32) -> Option<(usize, u64)> {
        if self.orders & 1 == 0 {
            let smallest = self.orders.trailing_zeros();
            let order = (wanted.ilog2().min(smallest) as usize).min(RUN_ORDER);
            let first = self.take(order)?;
            return Some((first / RUN, ones(1 << order) << (first % RUN)));
        }
        let run = self.bits[..1 << (ORDERS - RUN_ORDER)].iter().position(|&word| word != 0)?;
        let pages = lowest_ones(self.bits[run], wanted);
        self.bits[run] &= !pages;
        self.note_cleared(0, run);
        Some((run, pages))
    }

    /// Takes single frames of one run back, all at a time. Whether the whole block is free now, as for
    /// [`give`](Self::give).
    pub(crate) fn give_pages(&mut self, run: usize, pages: u64) -> bool {
        // The chunks of an order that come back; two of them that are halves of one come back as one of the next.
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
        self.give(run * RUN, RUN_ORDER)
    }

    /// The lowest chunk of an order.
    fn lowest(&self, order: usize) -> Option<usize> {
        (base(order) / 64..=(base(order + 1) - 1) / 64).find_map(|word| self.lowest_in(order, word))
    }

    /// The lowest chunk of an order whose bit is in this word, which has bits of that order.
    fn lowest_in(&self, order: usize, word: usize) -> Option<usize> {
        // Bits of smaller orders come before, those of larger ones behind.
        let (start, end) = (base(order).max(word * 64), base(order + 1).min(word * 64 + 64));
        let bits = self.bits[word] >> (start % 64) & ones(end - start);
        (bits != 0).then(|| start - base(order) + bits.trailing_zeros() as usize)
    }

    /// The free chunks: the first frame, counted from the block's, and the order.
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

    /// Bits of `order` in this word were cleared: maybe there is none left.
    fn note_cleared(&mut self, order: usize, word: usize) {
        // A word that is not empty need not have one of this order, an empty one has none for certain.
        if self.lowest_in(order, word).is_none() && self.lowest(order).is_none() {
            self.orders &= !(1 << order);
        }
    }
}

/// The bits with even numbers.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// The lowest `count` bits.
fn ones(count: usize) -> u64 {
    u64::MAX >> (64 - count)
}

/// The lowest `count` bits of those that are set.
fn lowest_ones(word: u64, count: u32) -> u64 {
    if word.count_ones() <= count {
        return word;
    }
    let mut others = word;
    (0..count).for_each(|_| others &= others - 1);
    word ^ others
}

/// The bits with even numbers, moved together; the others are 0.
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

/// The number of the first bit of an order: 512 bits of order 0, half as many of each next one.
const fn base(order: usize) -> usize {
    1024 - (1024 >> order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages(block: &mut Block) -> Vec<usize> {
        core::iter::from_fn(|| block.take(0)).collect()
    }

    #[test]
    fn all_frames_come_and_go_once() {
        let mut block = Block::full();
        assert_eq!((block.largest(), block.take(0)), (None, None));
        assert!((0..511).all(|page| !block.give(page, 0)));
        assert_eq!(block.largest(), Some(8));
        let mut taken = pages(&mut block);
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..511));
        let all: Vec<bool> = (0..512).map(|page| block.give(page, 0)).collect();
        assert_eq!((all.iter().filter(|&&whole| whole).count(), all[511], block.largest()), (1, true, None));
    }

    #[test]
    fn the_smallest_that_will_do_is_split() {
        let mut block = Block::full();
        block.give(256, 8);
        block.give(8, 2);
        assert_eq!(block.take(1), Some(8));
        assert_eq!(block.take(1), Some(10));
        assert_eq!(block.take(1), Some(256));
        assert_eq!((block.take(7), block.take(8)), (Some(384), None));
        assert_eq!(block.largest(), Some(6));
        assert!(!block.give(256, 1));
        assert_eq!(block.largest(), Some(7));
    }

    #[test]
    fn frames_come_and_go_a_run_at_a_time() {
        let mut block = Block::full();
        assert_eq!(block.take_pages(64), None);
        assert!((0..8).all(|run| block.give_pages(run, u64::MAX) == (run == 7)));
        assert_eq!(block.bits, [0; 16]);
        assert!(!block.give_pages(3, EVEN));
        assert_eq!((block.largest(), block.take_pages(5)), (Some(0), Some((3, 0x155))));
        assert_eq!(block.take_pages(64), Some((3, EVEN - 0x155)));
        assert_eq!(block.largest(), None);
    }

    #[test]
    fn single_frames_of_larger_chunks_are_a_chunk() {
        let mut block = Block::full();
        block.give(256, 8);
        assert_eq!(block.take_pages(64), Some((4, u64::MAX)));
        assert_eq!(block.take_pages(5), Some((5, 0xf)));
        block.give(0, 1);
        assert_eq!(block.take_pages(1), Some((0, 1)));
        assert_eq!(block.take_pages(64), Some((0, 2)));
        assert_eq!(block.take_pages(64), Some((5, 0xf0)));
    }

    #[test]
    fn even_bits_move_together() {
        let cases = [(0, 0), (EVEN, u64::from(u32::MAX)), (1 << 62, 1 << 31), (0b1_0100, 0b110)];
        for (bits, together) in cases {
            assert_eq!(even_bits(bits), together, "{bits:#x}");
        }
    }

    proptest! {
        /// Giving frames back together leaves the same bits as giving them one by one.
        #[test]
        fn together_is_one_by_one(steps in prop::collection::vec((0usize..8, any::<u64>(), any::<u64>()), 1..20)) {
            let (mut together, mut single) = (Block::full(), Block::full());
            let mut free = [0u64; 8];
            for (run, give, take) in steps {
                let back = give & !free[run];
                free[run] |= back;
                let whole = together.give_pages(run, back);
                let ones = (0..64).filter(|bit| back >> bit & 1 == 1);
                let alone = ones.fold(false, |_, bit| single.give(run * RUN + bit, 0));
                prop_assert_eq!(whole, alone);
                prop_assert_eq!((together.bits, together.orders), (single.bits, single.orders));
                if whole {
                    free = [0; 8];
                }
                if take > 0 && let Some((run, pages)) = together.take_pages((take % 64) as u32 + 1) {
                    prop_assert!(pages.count_ones() <= (take % 64) as u32 + 1);
                    prop_assert_eq!((pages & free[run], single.take_pages((take % 64) as u32 + 1)), (pages, Some((run, pages))));
                    free[run] &= !pages;
                }
            }
        }
    }

    #[test]
    fn every_order_has_bits_of_its_own() {
        for order in 0..ORDERS {
            let mut block = Block::full();
            let last = (512 >> order) - 1;
            block.give(last << order, order);
            assert_eq!((block.largest(), block.take(order)), (Some(order), Some(last << order)));
            assert_eq!(block.bits, [0; 16]);
        }
    }
}
