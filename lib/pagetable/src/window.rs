//! A window: a last-level table whose entries somebody fills and clears without a walk.

use crate::descriptor::{Descriptor, Format, Stage1};
use crate::geometry::LAST_LEVEL;
use crate::table::{load, store};
use crate::{Entries, InputAddress, Mapping};
use addr::{Chunk, PAGE_SIZE};
use core::sync::atomic::AtomicU64;

/// All pages of a table but the last, which is mapped for good and so keeps the table in its tree.
///
/// What is shown here is not counted as the table's, so everything must be hidden whenever the tree is asked about
/// these addresses. There is one user at a time.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    slots: &'a [AtomicU64],
}

impl<'a> Window<'a> {
    /// The window of a table ([`PageTable::last_table`](crate::PageTable::last_table)); `None` if nothing keeps it.
    pub fn new(entries: &'a Entries) -> Option<Self> {
        let (last, slots) = entries.split_last()?;
        load(last).is_valid().then_some(Self { slots })
    }

    /// How many pages can be shown at a time.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Shows `chunk` from page `at` on, and returns how many pages that are. The caller makes the entries seen.
    ///
    /// # Panics
    /// When it does not fit.
    #[inline]
    pub fn show<A: InputAddress>(&self, at: usize, chunk: Chunk, mapping: Mapping) -> usize {
        let pages = chunk.frames() as usize;
        let mut leaf = Descriptor::leaf(chunk.start(), LAST_LEVEL, Stage1::attributes::<A>(mapping));
        let slots = &self.slots[at..at + pages];
        if let [slot] = slots {
            store(slot, leaf);
            return 1;
        }
        let mut next = |slot| {
            store(slot, leaf);
            leaf = leaf.further(PAGE_SIZE);
        };
        // Eight at a time: a loop costs as much as a store.
        let (groups, rest) = slots.as_chunks::<8>();
        groups.iter().for_each(|group| group.iter().for_each(&mut next));
        rest.iter().for_each(next);
        pages
    }

    /// Shows the first `pages` no more. The caller invalidates them (last-level entries are enough).
    #[inline]
    pub fn hide(&self, pages: usize) {
        let clear = |slot| store(slot, Descriptor::INVALID);
        let (groups, rest) = self.slots[..pages].as_chunks::<8>();
        groups.iter().for_each(|group| group.iter().for_each(clear));
        rest.iter().for_each(clear);
    }
}
