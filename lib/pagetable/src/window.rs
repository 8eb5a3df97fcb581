//! Temporary per-CPU mappings: entries of private tables ([`PerCpuRoot`](crate::PerCpuRoot)), written without
//! a walk.

use crate::descriptor::{Descriptor, Format, Stage1};
use crate::geometry::{LAST_LEVEL, size};
use crate::table::{load, store};
use crate::{Entries, InputAddress, Leaf, Mapping};
use addr::{Chunk, Order, PAGE_SIZE};
use core::sync::atomic::AtomicU64;

/// A window of entries for one 2 MiB block, followed by [`MapWindow::PAGES`] pages. It has one user at a
/// time.
#[derive(Clone, Copy, Debug)]
pub struct MapWindow<'a> {
    block: &'a AtomicU64,
    pages: &'a Entries,
}

impl<'a> MapWindow<'a> {
    /// The capacity in pages.
    pub const PAGES: usize = size_of::<Entries>() / size_of::<AtomicU64>();
    /// The offset of the pages from the block.
    pub const PAGES_OFFSET: u64 = size(LAST_LEVEL - 1);

    /// The window in the tables [`PerCpuRoot::blocks`](crate::PerCpuRoot::blocks) and
    /// [`PerCpuRoot::pages`](crate::PerCpuRoot::pages).
    pub fn new(blocks: &'a Entries, pages: &'a Entries) -> Self {
        Self { block: &blocks[0], pages }
    }

    /// Maps `chunk` from page `at` on, and returns its number of pages. The caller makes the entries visible
    /// to the walker.
    ///
    /// # Panics
    /// If the chunk does not fit.
    #[inline]
    pub fn map<A: InputAddress>(&self, at: usize, chunk: Chunk, mapping: Mapping) -> usize {
        let pages = chunk.frames() as usize;
        let mut leaf = Descriptor::leaf(chunk.start(), LAST_LEVEL, Stage1::attributes::<A>(mapping));
        let slots = &self.pages[at..at + pages];
        if let [slot] = slots {
            store(slot, leaf);
            return 1;
        }
        for slot in slots {
            store(slot, leaf);
            leaf = leaf.advanced(PAGE_SIZE);
        }
        pages
    }

    /// Unmaps the first `pages` pages. The caller invalidates them (last-level entries are sufficient).
    #[inline]
    pub fn unmap(&self, pages: usize) {
        for slot in &self.pages[..pages] {
            store(slot, Descriptor::INVALID);
        }
    }

    /// Maps `block` in the block entry. The caller makes the entry visible to the walker.
    ///
    /// # Panics
    /// If it is not 2 MiB.
    #[inline]
    pub fn map_block<A: InputAddress>(&self, block: Chunk, mapping: Mapping) {
        assert!(block.order() == Order::BLOCK_2M, "{block:?} is not a block");
        store(self.block, Descriptor::leaf(block.start(), LAST_LEVEL - 1, Stage1::attributes::<A>(mapping)));
    }

    /// Unmaps the block. The caller invalidates it.
    #[inline]
    pub fn unmap_block(&self) {
        store(self.block, Descriptor::INVALID);
    }

    /// Visits the current mappings of the window, whose first address is `at`.
    pub fn leaves<A: InputAddress>(&self, at: A, mut visit: impl FnMut(Leaf<A>)) {
        let mut valid = |slot, level, offset| {
            let entry = load(slot);
            if entry.is_valid() {
                visit(Leaf::of::<Stage1>(entry, level, A::new(at.raw() + offset)));
            }
        };
        valid(self.block, LAST_LEVEL - 1, 0);
        for (page, slot) in self.pages.iter().enumerate() {
            valid(slot, LAST_LEVEL, Self::PAGES_OFFSET + page as u64 * PAGE_SIZE);
        }
    }
}
