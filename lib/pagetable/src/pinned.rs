//! Pinned last-level tables, whose pages are mapped and unmapped without a walk.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{GROUP_LEN, LAST_LEVEL, OutputSize, TABLE_LEN, index, size};
use crate::steps::last_byte;
use crate::table::{add_valid, load, valid_count, write_leaves, write_link};
use crate::unmap::clear_mapped;
use crate::{Entries, InputAddress, LeafSize, MapError, Mapping, PageTable, TableMemory, TableRef};
use addr::{FrameRun, PAGE_SHIFT, PhysAddr};
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::AtomicU64;

/// The size of the range that a pinned table translates.
pub const PINNED_BYTES: u64 = size(LAST_LEVEL - 1);

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Pins the table for the [`PINNED_BYTES`] from `at` on, where nothing is mapped: it stays until the tree
    /// is destroyed, and pages in it are mapped only through [`PinnedEntries`]. The tree still visits and
    /// translates them. `highest` is the last byte of the memory that may be mapped there: the check against
    /// the output size here saves one in each map.
    ///
    /// # Errors
    /// [`MapError::Misaligned`], [`MapError::OutOfRange`], [`MapError::AlreadyMapped`],
    /// [`MapError::OutOfTables`], [`MapError::OutputTooLarge`].
    ///
    /// # Safety
    /// The result is not used after the tree is destroyed.
    #[expect(unsafe_code, reason = "a table that is used after its release is another owner's memory")]
    pub unsafe fn pin<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        highest: PhysAddr,
    ) -> Result<TableRef<'static>, MapError<A>> {
        self.pin_table(m, at, highest).map(TableRef::new)
    }

    pub(crate) fn pin_table<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        highest: PhysAddr,
    ) -> Result<PhysAddr, MapError<A>> {
        if highest > self.output.highest() {
            return Err(self.output.exceeded_by(highest));
        }
        let first = self.input.offset(at).ok_or(MapError::OutOfRange(at))?;
        if !first.is_multiple_of(PINNED_BYTES) {
            return Err(MapError::Misaligned(at));
        }
        let found = self.walk(m, first, LAST_LEVEL);
        let table = if found.level == LAST_LEVEL && valid_count(m, found.table) == 0 {
            found.table
        } else if found.level == LAST_LEVEL || found.entry.is_valid() {
            return Err(MapError::AlreadyMapped(at));
        } else {
            let (top, table) = Self::new_tables(m, first, found.level + 1, LAST_LEVEL)?;
            m.order_before_link();
            write_link(m, found.table, found.slot, top);
            self.tables += u32::from(LAST_LEVEL - found.level);
            table
        };
        // One more than the valid entries, so that the table never counts as empty.
        add_valid(m, table, 1);
        Ok(table)
    }
}

/// The precomputed attribute bits of a [`Mapping`], for callers that map often. Valid for tables of the
/// format and of the address space that it was made for.
#[derive(Clone, Copy, Debug)]
pub struct LeafAttributes {
    attributes: u64,
    allows_contiguous: bool,
}

impl LeafAttributes {
    /// The bits for `mapping` in tables of format `F` that translate `A`.
    ///
    /// # Errors
    /// [`MapError::Inexpressible`].
    #[inline]
    pub fn new<F: Format, A: InputAddress>(mapping: Mapping) -> Result<Self, MapError<A>> {
        if !F::can_express(mapping.access()) {
            return Err(MapError::Inexpressible(mapping.access()));
        }
        Ok(Self {
            attributes: F::attributes::<A>(mapping),
            allows_contiguous: mapping.leaf_size() == LeafSize::Largest,
        })
    }
}

/// The entries of a pinned table. A page has one owner at a time; different owners need no common lock.
#[derive(Debug)]
pub struct PinnedEntries<'a, F, A> {
    entries: &'a Entries,
    format: PhantomData<(F, A)>,
}

impl<'a, F: Format, A: InputAddress> PinnedEntries<'a, F, A> {
    /// The entries of a table that [`PageTable::pin`] returned.
    #[inline]
    pub fn new(entries: &'a Entries) -> Self {
        Self { entries, format: PhantomData }
    }

    /// Maps `chunks`, or other runs of frames, in order from page `first` of the table on. The caller owns
    /// these pages, and none of them is mapped; the frames are in the memory that the table was pinned for.
    /// Returns the entries, which the caller makes visible to the walker ([`TableMemory::entries_written`]
    /// and a barrier).
    ///
    /// # Errors
    /// [`MapError::Inexpressible`]. Nothing is mapped.
    ///
    /// # Panics
    /// If the runs exceed the table.
    #[inline]
    pub fn map(
        &self,
        first: usize,
        chunks: impl Iterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<&'a [AtomicU64], MapError<A>> {
        let bits = LeafAttributes::new::<F, A>(mapping)?;
        let next = chunks.fold(first, |next, run| next + self.map_run(next, &run, bits).len());
        Ok(&self.entries[first..next])
    }

    /// [`PinnedEntries::map`] of a single run.
    ///
    /// # Panics
    /// If the run exceeds the table.
    #[inline]
    pub fn map_run(&self, first: usize, run: &impl FrameRun, bits: LeafAttributes) -> &'a [AtomicU64] {
        let pages = ((run.end().raw() - run.start().raw()) >> PAGE_SHIFT) as usize;
        let slots = &self.entries[first..first + pages];
        let mut leaf = Descriptor::leaf(run.start(), LAST_LEVEL, bits.attributes);
        if pages == GROUP_LEN && bits.allows_contiguous && is_group(first, run.start()) {
            leaf = leaf.contiguous();
        }
        debug_assert!(OutputSize::ENTRY.holds(run), "{} is not encoded", last_byte(run));
        debug_assert!(
            slots.iter().all(|slot| !load(slot).is_valid()),
            "page {first} or a following one is mapped"
        );
        write_leaves(slots, leaf, size(LAST_LEVEL));
        slots
    }

    /// Unmaps `pages`, which one call has mapped. The caller invalidates them (last-level entries are
    /// sufficient) before it reuses the pages and the frames. Returns the entries, to be made visible to the
    /// walker.
    #[inline]
    pub fn unmap(&self, pages: Range<usize>) -> &'a [AtomicU64] {
        let slots = &self.entries[pages];
        clear_mapped(slots);
        slots
    }
}

/// Whether the sixteen pages from `slot` and from `to` on are aligned as a contiguous group.
fn is_group(slot: usize, to: PhysAddr) -> bool {
    let inside = size(LAST_LEVEL) * GROUP_LEN as u64 - 1;
    slot.is_multiple_of(GROUP_LEN) && to.raw() & inside == 0
}

/// The index of the page at `at` in its pinned table.
#[inline]
pub fn pinned_page<A: InputAddress>(at: A) -> usize {
    const { assert!(TABLE_LEN as u64 * size(LAST_LEVEL) == PINNED_BYTES) };
    index(at.raw(), LAST_LEVEL)
}
