//! The free frames of one zone between two powers of two.

use addr::{Chunk, Order, Pfn};
use buddy_system_allocator::FrameAllocator;

const ORDERS: usize = Order::MAX.log2() as usize + 1;

/// A bank holds frames of [2^k, 2^(k+1)) alone. No naturally aligned chunk crosses such a border, so banks lose no
/// chunk that a single allocator would have had, and a device's limit is a choice of banks instead of a search.
/// (The one exception: a chunk that starts at frame 0 would span all smaller banks, and is never formed.)
pub(crate) struct Bank {
    free_chunks: FrameAllocator<ORDERS>,
    free: u64,
    /// The highest frame ever added: a limit at or above it reaches the whole bank.
    last: Pfn,
    /// No free chunk has this order or more. Learnt from failures, forgotten when something comes back.
    hopeless: u8,
}

impl Bank {
    pub(crate) fn new() -> Self {
        Self { free_chunks: FrameAllocator::new(), free: 0, last: Pfn::new(0), hopeless: 0 }
    }

    /// The bank that `frame` belongs to: the position of its highest bit. Frame 0 shares the bank of frame 1.
    pub(crate) fn index(frame: Pfn) -> usize {
        frame.raw().checked_ilog2().unwrap_or(0) as usize
    }

    /// Adds the frames from `first` up to, not including, `end`.
    pub(crate) fn add(&mut self, first: Pfn, end: Pfn) {
        self.free_chunks.add_frame(first.raw() as usize, end.raw() as usize);
        self.free += end.raw() - first.raw();
        self.last = self.last.max(Pfn::new(end.raw() - 1));
        self.hopeless = ORDERS as u8;
    }

    pub(crate) fn last(&self) -> Pfn {
        self.last
    }

    pub(crate) fn take(&mut self, order: Order) -> Option<Chunk> {
        if order.log2() >= self.hopeless || order.frames() > self.free {
            return None;
        }
        match self.free_chunks.alloc(order.frames() as usize) {
            Some(first) => {
                self.free -= order.frames();
                Chunk::new(Pfn::new(first as u64), order)
            }
            None => {
                self.hopeless = order.log2();
                None
            }
        }
    }

    pub(crate) fn give(&mut self, chunk: Chunk) {
        self.free_chunks.dealloc(chunk.first().raw() as usize, chunk.frames() as usize);
        self.free += chunk.frames();
        self.hopeless = ORDERS as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bit_names_the_bank() {
        let cases = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (0x7ffff, 18), (0x80000, 19)];
        for (frame, bank) in cases {
            assert_eq!(Bank::index(Pfn::new(frame)), bank, "{frame:#x}");
        }
    }

    #[test]
    fn a_failed_order_is_tried_again_after_a_free() {
        let mut bank = Bank::new();
        bank.add(Pfn::new(4), Pfn::new(8));
        let order = Order::new(2).unwrap();
        let pages: Vec<_> = (0..4).map(|_| bank.take(Order::PAGE).unwrap()).collect();
        assert_eq!(bank.take(order), None);
        assert_eq!(bank.take(Order::PAGE), None);
        pages.into_iter().for_each(|page| bank.give(page));
        assert_eq!(bank.take(order), Chunk::new(Pfn::new(4), order));
    }
}
