//! Unmapping: valid entries become invalid, and empty tables are unlinked.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{GROUP_LEN, LAST_LEVEL, index, size, slot_start};
use crate::table::{WalkEnd, drop_valid, load, store, valid_count};
use crate::{InputAddress, OutOfTables, PageTable, StaleTables, TableMemory, TableRef};
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr};
use core::sync::atomic::AtomicU64;

/// The reason a range was not unmapped. All its translations are unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmapError<A: Address> {
    /// No frame for splitting a block at the edge of the range.
    OutOfTables,
    /// The range is not page-aligned, or not inside the input address space.
    BadRange(AddrRange<A>),
}

impl<A: Address> From<OutOfTables> for UnmapError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// The options and the result of [`PageTable::clear`].
pub(crate) struct Cleared {
    /// The tables that were unlinked.
    pub stale: StaleTables,
    /// Which empty tables stay linked.
    keep: Keep,
}

/// Which empty tables stay linked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Only an existing spare table.
    Spare,
    /// One more becomes the spare table, if the tree keeps one and has none.
    OneAsSpare,
    /// All.
    All,
}

impl Cleared {
    pub const fn keeping_spare() -> Self {
        Self { stale: StaleTables::new(), keep: Keep::OneAsSpare }
    }
    pub const fn unlinking_all() -> Self {
        Self { stale: StaleTables::new(), keep: Keep::Spare }
    }
}

/// A range outside of the input address space, or not page-aligned.
pub(crate) struct BadRange;

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Unmaps `range`; holes are allowed.
    ///
    /// A block or contiguous group that spans a border of the range is split first, with break-before-make;
    /// only that allocates and can fail. The caller invalidates the range, then releases the tables and
    /// reuses the frames.
    pub fn unmap<M: TableMemory>(
        &mut self,
        m: &mut M,
        range: AddrRange<A>,
    ) -> Result<StaleTables, UnmapError<A>> {
        let (first, end) = self.offsets(range).map_err(|BadRange| UnmapError::BadRange(range))?;
        let mut cleared = Cleared::keeping_spare();
        if first < end && !self.clear_pages(m, first, end) {
            self.split_at(m, first)?;
            self.split_at(m, end)?;
            self.clear(m, self.root, self.start_level, first, end - 1, &mut cleared);
        }
        Ok(cleared.stale)
    }

    /// [`PageTable::unmap`] of a range that calls of [`PageTable::map`] have mapped completely: each page of
    /// `range` is mapped, and no block or group spans its borders. It needs no memory, and does not count
    /// entries, which saves 1 691 of 3 019 instructions of the free of a buffer of 256 pages.
    pub fn unmap_whole<M: TableMemory>(
        &mut self,
        m: &M,
        range: AddrRange<A>,
    ) -> Result<StaleTables, UnmapError<A>> {
        let (first, end) = self.offsets(range).map_err(|BadRange| UnmapError::BadRange(range))?;
        let mut cleared = Cleared::keeping_spare();
        if first < end && !self.clear_whole_pages(m, first, end) {
            self.clear(m, self.root, self.start_level, first, end - 1, &mut cleared);
        }
        Ok(cleared.stale)
    }

    /// [`PageTable::clear_pages`] of a range without holes.
    #[inline]
    fn clear_whole_pages<M: TableMemory>(&mut self, m: &M, first: u64, end: u64) -> bool {
        let Some((found, table_start)) = self.single_table(m, first, end) else { return false };
        if found.level != LAST_LEVEL {
            return false;
        }
        let slots = &m.entries(TableRef::new(found.table))[found.slot..=index(end - 1, LAST_LEVEL)];
        clear_mapped(slots);
        m.entries_written(slots);
        drop_valid(m, found.table, slots.len());
        valid_count(m, found.table) > 0 || self.keep_as_spare(m, found.table, table_start, true)
    }

    /// The walk to the last-level table that contains the range, and the first offset of that table; `None`
    /// if the range needs several tables, or covers the whole table.
    #[inline]
    fn single_table<M: TableMemory>(&self, m: &M, first: u64, end: u64) -> Option<(WalkEnd, u64)> {
        let table_size = size(LAST_LEVEL - 1);
        let table_start = first & !(table_size - 1);
        let one = end - table_start <= table_size && end - first < table_size;
        one.then(|| (self.walk(m, first, LAST_LEVEL), table_start))
    }

    /// Unmaps `range`, and keeps the tables, so that mapping pages there again needs no memory. The caller
    /// invalidates the range (last-level entries are sufficient), then reuses the frames.
    pub fn unmap_keeping_tables<M: TableMemory>(
        &mut self,
        m: &mut M,
        range: AddrRange<A>,
    ) -> Result<(), UnmapError<A>> {
        let (first, end) = self.offsets(range).map_err(|BadRange| UnmapError::BadRange(range))?;
        if first < end {
            self.split_at(m, first)?;
            self.split_at(m, end)?;
            let mut none = Cleared { stale: StaleTables::new(), keep: Keep::All };
            self.clear(m, self.root, self.start_level, first, end - 1, &mut none);
            debug_assert!(none.stale.is_empty());
        }
        Ok(())
    }

    /// Fast path: clears pages of a single last-level table with one walk; saves the walks for the borders
    /// and the recursion. `false` if that is not sufficient: then it has cleared nothing, or left a table
    /// empty.
    #[inline]
    fn clear_pages<M: TableMemory>(&mut self, m: &M, first: u64, end: u64) -> bool {
        let Some((found, table_start)) = self.single_table(m, first, end) else { return false };
        if found.level != LAST_LEVEL {
            return !found.entry.is_valid();
        }
        let slots = &m.entries(TableRef::new(found.table))[found.slot..=index(end - 1, LAST_LEVEL)];
        if splits_group(&slots[0], first) || splits_group(&slots[slots.len() - 1], end) {
            return false;
        }
        let removed = clear_leaves(slots);
        if removed > 0 {
            m.entries_written(slots);
            drop_valid(m, found.table, removed);
        }
        valid_count(m, found.table) > 0 || self.keep_as_spare(m, found.table, table_start, true)
    }

    /// The offsets of the start and of the end of `range`.
    pub(crate) fn offsets(&self, range: AddrRange<A>) -> Result<(u64, u64), BadRange> {
        if !range.start().is_aligned(PAGE_SIZE) || !range.end().is_aligned(PAGE_SIZE) {
            return Err(BadRange);
        }
        let first = self.input.offset(range.start()).ok_or(BadRange)?;
        if range.len() > self.input.len() - first {
            return Err(BadRange);
        }
        Ok((first, first + range.len()))
    }

    /// Clears the mappings from `first` to `last`, which `table` contains; no leaf spans these borders.
    pub(crate) fn clear<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        level: u8,
        first: u64,
        last: u64,
        cleared: &mut Cleared,
    ) {
        let first_slot = index(first, level);
        let slots = &m.entries(TableRef::new(table))[first_slot..=index(last, level)];
        let mut removed = 0;
        for (slot, n) in slots.iter().zip(first_slot..) {
            let entry = load(slot);
            let stays = entry.is_table(level) && {
                let start = slot_start(first, level, n);
                let part = (first.max(start), last.min(start + size(level) - 1));
                !self.clear_table(m, entry.output(), level + 1, part, cleared)
            };
            if entry.is_valid() && !stays {
                store(slot, Descriptor::INVALID);
                removed += 1;
            }
        }
        if removed > 0 {
            m.entries_written(slots);
            drop_valid(m, table, removed);
        }
    }

    /// Clears the part from `first` to `last` of the range that `table` translates. Returns whether the table
    /// was unlinked; then the caller clears its entry.
    fn clear_table<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        level: u8,
        (first, last): (u64, u64),
        cleared: &mut Cleared,
    ) -> bool {
        let whole = size(level - 1);
        let start = first & !(whole - 1);
        let stays = cleared.keep == Keep::All || self.is_root_fixed() && level == self.start_level + 1;
        // A table that is unlinked as a whole keeps its entries: one store instead of 512. Until the
        // invalidation they have the same effect as the TLB entries that it removes.
        if last - first != whole - 1 || stays {
            self.clear(m, table, level, first, last, cleared);
            let as_spare = cleared.keep == Keep::OneAsSpare;
            if stays || valid_count(m, table) > 0 || self.keep_as_spare(m, table, start, as_spare) {
                return false;
            }
        }
        self.unlink(m, table, level, start, &mut cleared.stale);
        true
    }
}

/// Whether `at`, a border of the page in `slot`, is inside the page's contiguous group.
fn splits_group(slot: &AtomicU64, at: u64) -> bool {
    at & (size(LAST_LEVEL) * GROUP_LEN as u64 - 1) != 0 && load(slot).is_contiguous()
}

/// Clears the valid entries, and returns their number.
fn clear_leaves(slots: &[AtomicU64]) -> usize {
    let mut removed = 0;
    for slot in slots {
        if load(slot).is_valid() {
            store(slot, Descriptor::INVALID);
            removed += 1;
        }
    }
    removed
}

/// Clears entries, all of which are valid.
#[inline]
pub(crate) fn clear_mapped(slots: &[AtomicU64]) {
    debug_assert!(slots.iter().all(|slot| load(slot).is_valid()), "a hole in a range that has none");
    let (eights, rest) = slots.as_chunks::<8>();
    // Unrolled: saves 384 of 1 744 instructions of the free of a buffer of 1 MiB.
    for eight in eights {
        for slot in eight {
            store(slot, Descriptor::INVALID);
        }
    }
    for slot in rest {
        store(slot, Descriptor::INVALID);
    }
}
