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
    /// Bits set of each order.
    counts: [u16; ORDERS],
    /// A bit for each order that has some.
    orders: u16,
}

impl Block {
    /// A block without a free frame.
    pub(crate) const fn full() -> Self {
        Self { bits: [0; 16], counts: [0; ORDERS], orders: 0 }
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

    fn lowest(&self, order: usize) -> Option<usize> {
        let start = base(order);
        let words = &self.bits[start / 64..=(base(order + 1) - 1) / 64];
        let mut skipped = start % 64;
        for (n, word) in words.iter().enumerate() {
            // In the first word the bits of smaller orders come before, in the last those of larger ones behind.
            let rest = word >> skipped << skipped;
            if rest != 0 {
                return Some(n * 64 + rest.trailing_zeros() as usize - start % 64);
            }
            skipped = 0;
        }
        None
    }

    fn is_set(&self, order: usize, index: usize) -> bool {
        let bit = base(order) + index;
        self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn set(&mut self, order: usize, index: usize) {
        debug_assert!(!self.is_set(order, index), "chunk {index} of order {order} is free already");
        let bit = base(order) + index;
        self.bits[bit / 64] |= 1 << (bit % 64);
        self.counts[order] += 1;
        self.orders |= 1 << order;
    }

    fn clear(&mut self, order: usize, index: usize) {
        let bit = base(order) + index;
        self.bits[bit / 64] &= !(1 << (bit % 64));
        self.counts[order] -= 1;
        if self.counts[order] == 0 {
            self.orders &= !(1 << order);
        }
    }
}

/// The number of the first bit of an order: 512 bits of order 0, half as many of each next one.
const fn base(order: usize) -> usize {
    1024 - (1024 >> order)
}

#[cfg(test)]
mod tests {
    use super::*;

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
