//! Unmapping: valid entries become invalid; tables that become empty are unlinked.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{LAST_LEVEL, index, size, slot_start};
use crate::table::{clear_slot, drop_live, live, load, store};
use crate::{InputAddress, OutOfTables, PageTable, StaleTables, TableMemory};
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr};
use core::sync::atomic::AtomicU64;

/// Why a range was not unmapped. All its translations are as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmapError<A: Address> {
    /// No frame for the table that a block at the range's edge has to be split into.
    OutOfTables,
    /// Not whole pages, or not inside the input address space.
    BadRange(AddrRange<A>),
}

impl<A: Address> From<OutOfTables> for UnmapError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// A range outside of the address space, or of broken pages.
pub(crate) struct BadRange;

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Unmaps what is mapped in `range`; holes are fine.
    ///
    /// A block or contiguous group that the range cuts is split first, with break-before-make; only that allocates,
    /// and only that can fail. The caller invalidates the range, then releases the tables and reuses the frames.
    pub fn unmap<M: TableMemory>(
        &mut self,
        m: &mut M,
        range: AddrRange<A>,
    ) -> Result<StaleTables, UnmapError<A>> {
        let (first, end) = self.offsets(range).map_err(|BadRange| UnmapError::BadRange(range))?;
        let mut stale = StaleTables::new();
        if first < end {
            self.cut(m, first)?;
            self.cut(m, end)?;
            self.clear(m, self.root, self.start_level, first, end - 1, &mut stale);
        }
        Ok(stale)
    }

    /// The offsets of the first address and of the one behind the last.
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

    /// Clears what is mapped from `first` to `last` in `table`; both are in it, and no leaf reaches across them.
    pub(crate) fn clear<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        level: u8,
        first: u64,
        last: u64,
        stale: &mut StaleTables,
    ) {
        let slots = index(first, level)..=index(last, level);
        if level == LAST_LEVEL {
            let removed = clear_leaves(&m.entries(table)[slots.clone()]);
            if removed > 0 {
                m.written(&m.entries(table)[slots]);
                drop_live(m, table, removed);
            }
            return;
        }
        for slot in slots {
            let entry = load(&m.entries(table)[slot]);
            if entry.is_table(level) {
                let start = slot_start(first, level, slot);
                self.clear_below(
                    m,
                    table,
                    level,
                    slot,
                    (first.max(start), last.min(start + size(level) - 1)),
                    stale,
                );
            } else if entry.is_valid() {
                clear_slot(m, table, slot);
            }
        }
    }

    /// Clears a part or all of what the table in `slot` translates.
    fn clear_below<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        level: u8,
        slot: usize,
        (first, last): (u64, u64),
        stale: &mut StaleTables,
    ) {
        let below = load(&m.entries(table)[slot]).output();
        let start = slot_start(first, level, slot);
        let whole = last - first == size(level) - 1;
        if !whole {
            self.clear(m, below, level + 1, first, last, stale);
        }
        // A table that goes as a whole keeps its entries: one store instead of 512, and they mean no more than
        // what is in TLBs until the same invalidation.
        if whole || (live(m, below) == 0 && !self.may_stay(m, below, start)) {
            clear_slot(m, table, slot);
            self.unlink(m, below, level + 1, start, stale);
        }
    }
}

/// Clears all valid entries, and counts them.
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
