//! The free frames of a zone between two powers of two.

use crate::block::{self, Block};
use crate::large::Large;
use crate::split::{buddies, fit};
use addr::{AddrRange, Chunk, Order, Pfn};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Range;

const ORDERS: usize = Order::MAX.log2() as usize + 1;
/// Blocks in an entry of the directory.
const GROUP: usize = 64;

/// The free frames with numbers in [2^k, 2^(k+1)). No naturally aligned chunk crosses such a border, so banks
/// form every chunk that a single allocator would form, and most banks are inside a device's address limits,
/// or outside, as a whole. (The only exception: a chunk that starts at frame 0 would span all smaller banks,
/// and is never formed.)
///
/// Whole free 2 MiB blocks are in [`Large`]; each partly free block has a [`Block`]. Allocating or freeing a
/// frame changes bits, and the trees only when the order of a block's largest chunk changes.
pub(crate) struct Bank {
    large: Large,
    /// The partly free blocks, by their number from the bank's first, up to the last frame ever added.
    groups: Vec<Option<Box<Group>>>,
    /// The numbers of the partly free blocks, by the order of their largest free chunk.
    by_largest: [BTreeSet<u32>; block::ORDERS],
    first_block: u64,
    free: u64,
    /// From the lowest to the highest frame ever added: limits that include them include the whole bank.
    span: Range<u64>,
    /// No free chunk has this order or more: set by a failed allocation, reset when frames are freed.
    failed_order: u8,
}

type Group = [Option<Box<Block>>; GROUP];

impl Bank {
    /// An empty bank with this index.
    pub(crate) fn new(index: usize) -> Self {
        Self {
            large: Large::new(),
            groups: Vec::new(),
            by_largest: [const { BTreeSet::new() }; block::ORDERS],
            first_block: block_of(Pfn::new(1 << index)),
            free: 0,
            span: 0..0,
            failed_order: 0,
        }
    }

    /// The index of the bank of `frame`: the position of its highest bit. Frame 0 shares the bank of frame 1.
    pub(crate) fn index(frame: Pfn) -> usize {
        frame.raw().checked_ilog2().unwrap_or(0) as usize
    }

    /// Adds the frames from `first` up to, not including, `end`.
    pub(crate) fn add(&mut self, first: Pfn, end: Pfn) {
        self.cover(Pfn::new(end.raw() - 1));
        Chunk::of_range(AddrRange::new(first.start(), end.start())).for_each(|chunk| self.free(chunk));
        let lowest = if self.span.is_empty() { first.raw() } else { self.span.start.min(first.raw()) };
        self.span = lowest..self.span.end.max(end.raw());
    }

    /// Grows the directory up to `last`, and no further: a bank may span far more addresses than it has
    /// memory.
    fn cover(&mut self, last: Pfn) {
        let groups = (block_of(last) - self.first_block) as usize / GROUP + 1;
        if let Some(more) = groups.checked_sub(self.groups.len()) {
            self.groups.reserve_exact(more);
            self.groups.resize_with(groups, || None);
        }
    }

    /// Whether all frames of the bank are among the frames `wanted`.
    pub(crate) fn is_within(&self, wanted: &Range<u64>) -> bool {
        wanted.start <= self.span.start && self.span.end <= wanted.end
    }

    /// As [`Bank::alloc`], among the frames `wanted`.
    pub(crate) fn alloc_within(&mut self, order: Order, wanted: &Range<u64>) -> Option<Chunk> {
        let log2 = usize::from(order.log2());
        let first = match log2.checked_sub(block::ORDERS) {
            Some(order) => self.large.alloc_within(order, &inner_blocks(wanted))? << block::ORDERS,
            None => {
                self.take_from_partly_free(log2, wanted).or_else(|| self.take_from_whole(log2, wanted))?
            }
        };
        self.free -= order.frames();
        Chunk::new(Pfn::new(first), order)
    }

    /// Takes a small chunk among the frames `wanted` from a partly free block.
    fn take_from_partly_free(&mut self, order: usize, wanted: &Range<u64>) -> Option<u64> {
        let (first, end) = (wanted.start >> block::ORDERS, wanted.end.div_ceil(1 << block::ORDERS));
        let number = |block: u64| u32::try_from(block.saturating_sub(self.first_block)).unwrap_or(u32::MAX);
        let numbers = number(first)..number(end.max(first));
        let (number, start, part) = self.by_largest[order..].iter().find_map(|blocks| {
            // Only the blocks across the ends of `wanted` may have no such chunk.
            blocks.range(numbers.clone()).find_map(|&number| {
                let block =
                    self.groups[number as usize / GROUP].as_ref()?[number as usize % GROUP].as_ref()?;
                let start = self.first_of(number).raw();
                let inside = wanted.start.saturating_sub(start)..wanted.end.saturating_sub(start);
                Some((number, start, block.find_within(order, &inside)?))
            })
        })?;
        Some(start + self.change(number, |block| block.take(part)))
    }

    /// Takes a small chunk among the frames `wanted` from a whole free block, preferably of those inside.
    fn take_from_whole(&mut self, order: usize, wanted: &Range<u64>) -> Option<u64> {
        let first_in = |block: u64| fit(block << block::ORDERS, block::ORDERS, order, wanted);
        let ends = [wanted.start, wanted.end].map(|frame| frame >> block::ORDERS);
        let ends = ends.map(|block| if first_in(block).is_some() { block..block + 1 } else { 0..0 });
        let candidates = [inner_blocks(wanted)].into_iter().chain(ends);
        let whole = candidates.into_iter().find_map(|blocks| self.large.alloc_within(0, &blocks))?;
        let first = first_in(whole)?;
        self.split(whole, first % (1 << block::ORDERS), order);
        Some(first)
    }

    pub(crate) fn alloc(&mut self, order: Order) -> Option<Chunk> {
        if order.log2() >= self.failed_order || order.frames() > self.free {
            return None;
        }
        match self.alloc_first(order) {
            Some(first) => {
                self.free -= order.frames();
                Chunk::new(first, order)
            }
            None => {
                self.failed_order = order.log2();
                None
            }
        }
    }

    fn alloc_first(&mut self, order: Order) -> Option<Pfn> {
        let log2 = usize::from(order.log2());
        match log2.checked_sub(block::ORDERS) {
            Some(order) => Some(Pfn::new(self.large.alloc(order)? << block::ORDERS)),
            None => self.alloc_small(log2),
        }
    }

    /// Takes from the partly free block whose largest chunk fits best, or else splits a whole block.
    fn alloc_small(&mut self, order: usize) -> Option<Pfn> {
        let Some(number) = self.partly_free(order) else {
            let whole = self.large.alloc(0)?;
            return Some(self.split(whole, 0, order));
        };
        let first = self.change(number, |block| block.alloc(order))?;
        Some(self.first_of(number).offset(first as u64))
    }

    /// Allocates at most `wanted` (not 0) single frames of one run: the run's first frame, and a bit for each
    /// allocated frame.
    pub(crate) fn alloc_pages(&mut self, wanted: u32) -> Option<(Pfn, u64)> {
        let (run, pages) = match self.partly_free(0) {
            Some(number) => {
                let (run, pages) = self.change(number, |block| block.alloc_pages(wanted))?;
                (self.first_of(number).offset((run * block::RUN) as u64), pages)
            }
            None => {
                let whole = self.large.alloc(0)?;
                let order = wanted.ilog2().min(block::RUN.ilog2());
                (self.split(whole, 0, order as usize), u64::MAX >> (block::RUN - (1 << order)))
            }
        };
        self.free -= u64::from(pages.count_ones());
        Some((run, pages))
    }

    /// The partly free block that fits a chunk of `order` best.
    fn partly_free(&self, order: usize) -> Option<u32> {
        self.by_largest[order..].iter().find_map(|blocks| blocks.first().copied())
    }

    fn first_of(&self, number: u32) -> Pfn {
        Pfn::new((self.first_block + u64::from(number)) << block::ORDERS)
    }

    /// Allocates from, or frees to, a partly free block.
    fn change<R>(&mut self, number: u32, change: impl FnOnce(&mut Block) -> R) -> R {
        let block = slot(&mut self.groups, number).get_or_insert_with(|| Box::new(Block::allocated()));
        let before = block.largest();
        let result = change(block);
        let after = block.largest();
        if before != after {
            self.refile(number, before, after);
        }
        result
    }

    /// Makes a whole free block a partly free one by taking the chunk whose first frame, relative to the
    /// block, is `first`.
    fn split(&mut self, whole: u64, first: u64, order: usize) -> Pfn {
        let mut block = Block::allocated();
        let rest = buddies(first, order, block::ORDERS);
        rest.for_each(|(buddy, half)| _ = block.free(buddy as usize, half));
        let number = (whole - self.first_block) as u32;
        self.refile(number, None, block.largest());
        *slot(&mut self.groups, number) = Some(Box::new(block));
        Pfn::new((whole << block::ORDERS) + first)
    }

    pub(crate) fn free(&mut self, chunk: Chunk) {
        self.free += chunk.frames();
        self.failed_order = ORDERS as u8;
        let block = block_of(chunk.first());
        let log2 = usize::from(chunk.order().log2());
        match log2.checked_sub(block::ORDERS) {
            Some(order) => self.large.free(block, order),
            None => {
                let first = chunk.first().raw() as usize % (1 << block::ORDERS);
                self.free_small(block, |block| block.free(first, log2));
            }
        }
    }

    /// Frees single frames of the run that starts at `run`.
    pub(crate) fn free_pages(&mut self, run: Pfn, pages: u64) {
        self.free += u64::from(pages.count_ones());
        self.failed_order = ORDERS as u8;
        let run_in_block = run.raw() as usize % (1 << block::ORDERS) / block::RUN;
        self.free_small(block_of(run), |block| block.free_pages(run_in_block, pages));
    }

    fn free_small(&mut self, whole: u64, free: impl FnOnce(&mut Block) -> bool) {
        if self.change((whole - self.first_block) as u32, free) {
            self.large.free(whole, 0);
        }
    }

    /// All free chunks, in no order.
    pub(crate) fn free_chunks(&self) -> impl Iterator<Item = Chunk> {
        let whole = self.large.runs().map(|(block, order)| (block << block::ORDERS, order + block::ORDERS));
        let groups = self.groups.iter().enumerate().filter_map(|(at, group)| Some((at, group.as_ref()?)));
        let blocks = groups.flat_map(|(at, group)| {
            let blocks = group.iter().enumerate();
            blocks.filter_map(move |(number, block)| Some((at * GROUP + number, block.as_ref()?)))
        });
        let partly = blocks.flat_map(|(number, block)| {
            let start = self.first_of(number as u32).raw();
            block.chunks().map(move |(first, order)| (start + first as u64, order))
        });
        whole
            .chain(partly)
            .filter_map(|(first, order)| Chunk::new(Pfn::new(first), Order::new(order as u8).ok()?))
    }

    /// Updates the index after the order of a block's largest chunk has changed. Drops a block without free
    /// chunks.
    fn refile(&mut self, number: u32, before: Option<usize>, after: Option<usize>) {
        before.map(|order| self.by_largest[order].remove(&number));
        match after {
            Some(order) => _ = self.by_largest[order].insert(number),
            None => *slot(&mut self.groups, number) = None,
        }
    }
}

/// The number of the 2 MiB block that a frame is in.
fn block_of(frame: Pfn) -> u64 {
    frame.raw() >> block::ORDERS
}

/// The 2 MiB blocks that are inside the frames `wanted` as a whole; possibly none.
fn inner_blocks(wanted: &Range<u64>) -> Range<u64> {
    let (first, end) = (wanted.start.div_ceil(1 << block::ORDERS), wanted.end >> block::ORDERS);
    first..end.max(first)
}

/// The directory entry of a block.
fn slot(groups: &mut [Option<Box<Group>>], number: u32) -> &mut Option<Box<Block>> {
    let group = groups[number as usize / GROUP].get_or_insert_with(|| Box::new([const { None }; GROUP]));
    &mut group[number as usize % GROUP]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_size_depends_on_the_memory_not_on_its_address() {
        let far = Pfn::new((64 << 40) / addr::PAGE_SIZE);
        let mut bank = Bank::new(Bank::index(far));
        bank.add(far, far.offset(1 << 18));
        assert_eq!(bank.groups.len(), 8, "1 GiB in groups of 128 MiB");
        bank.add(far.offset(1 << 20), far.offset((1 << 20) + 1));
        assert_eq!(bank.groups.len(), 33);
        let first = far.offset(1 << 20);
        assert_eq!(
            bank.alloc(Order::PAGE),
            Chunk::new(first, Order::PAGE),
            "the partly free block is used first"
        );
    }

    #[test]
    fn bank_index_is_the_highest_bit_of_the_frame() {
        let cases = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (0x7ffff, 18), (0x80000, 19)];
        for (frame, bank) in cases {
            assert_eq!(Bank::index(Pfn::new(frame)), bank, "{frame:#x}");
        }
    }

    #[test]
    fn failed_order_is_retried_after_a_free() {
        let mut bank = Bank::new(2);
        bank.add(Pfn::new(4), Pfn::new(8));
        let order = Order::new(2).unwrap();
        let pages: Vec<_> = (0..4).map(|_| bank.alloc(Order::PAGE).unwrap()).collect();
        assert_eq!(bank.alloc(order), None);
        assert_eq!(bank.alloc(Order::PAGE), None);
        pages.into_iter().for_each(|page| bank.free(page));
        assert_eq!(bank.alloc(order), Chunk::new(Pfn::new(4), order));
    }

    #[test]
    fn failed_order_is_retried_after_a_free_of_pages() {
        const PAIRS: u64 = 0x3333_3333_3333_3333;
        let mut bank = Bank::new(3);
        bank.add(Pfn::new(8), Pfn::new(16));
        let order = Order::new(2).unwrap();
        let (run, pages) = bank.alloc_pages(8).unwrap();
        bank.free_pages(run, pages & PAIRS);
        assert_eq!(bank.alloc(order), None, "four free frames, in two chunks");
        bank.free_pages(run, pages & !PAIRS);
        assert_eq!(bank.alloc(order), Chunk::new(Pfn::new(8), order));
    }

    #[test]
    fn failed_order_does_not_affect_smaller_orders() {
        let mut bank = Bank::new(3);
        bank.add(Pfn::new(8), Pfn::new(10));
        bank.add(Pfn::new(12), Pfn::new(14));
        let [two, four] = [1, 2].map(|order| Order::new(order).unwrap());
        assert_eq!(bank.alloc(four), None, "four free frames, in two chunks");
        assert_eq!(bank.alloc(two), Chunk::new(Pfn::new(8), two));
        assert_eq!(bank.alloc(Order::PAGE), Chunk::new(Pfn::new(12), Order::PAGE));
    }
}
