//! Mapping: invalid entries become valid; no valid entry changes.

use crate::descriptor::{Descriptor, Format};
use crate::fill::{Filled, fill};
use crate::geometry::{LAST_LEVEL, TABLE_LEN, index, size, slot_start};
use crate::steps::{LeafStep, RunCursor, only_level};
use crate::table::{WalkEnd, add_valid, clear_slot, load, valid_count, write_link};
use crate::unmap::Cleared;
use crate::{
    Access, InputAddress, LeafSize, Mapping, OutOfTables, PageTable, TableFrame, TableMemory, TableRef,
};
use addr::{FrameRun, PAGE_SIZE, PhysAddr};

/// The reason a range was not mapped. No part of it is: the entries written before the error were cleared and
/// invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError<A> {
    /// No frame for a table.
    OutOfTables,
    /// This address is mapped already.
    AlreadyMapped(A),
    /// This start address is not a multiple of 4 KiB.
    Misaligned(A),
    /// The run mapped at this address exceeds the input address space.
    OutOfRange(A),
    /// A run exceeds the output addresses of the table.
    OutputTooLarge {
        /// The last byte of the run.
        last: PhysAddr,
        /// The highest output address.
        highest: PhysAddr,
    },
    /// This translation stage cannot encode exactly these rights.
    Inexpressible(Access),
    /// The fixed root ([`PageTable::fix_root`]) has no table for this address.
    FixedRoot(A),
}

impl<A> From<OutOfTables> for MapError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Maps `chunks`, or other runs of frames, in order from `at` on.
    ///
    /// Leaves are as large as input and output addresses allow; adjacent runs count as one. Every entry is
    /// written once, and a table is filled before it is linked. The caller makes the entries visible to the
    /// walker before it uses the range.
    ///
    /// After an error no part of the range is mapped or in a TLB: the entries that had been written are
    /// cleared and invalidated ([`TableMemory::invalidate`]), and their tables released.
    pub fn map<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        chunks: impl IntoIterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<(), MapError<A>> {
        if !at.is_aligned(PAGE_SIZE) {
            return Err(MapError::Misaligned(at));
        }
        if !F::can_express(mapping.access()) {
            return Err(MapError::Inexpressible(mapping.access()));
        }
        let first = self.input.offset(at).ok_or(MapError::OutOfRange(at))?;
        let top_level = match mapping.leaf_size() {
            LeafSize::Largest => self.start_level,
            LeafSize::Page => only_level(LAST_LEVEL),
            LeafSize::Block2M => only_level(2),
            LeafSize::Block1G => only_level(1),
        };
        let mut cursor = RunCursor::new(first, chunks.into_iter(), top_level, self.output);
        let mapped = self.map_all(m, &mut cursor, F::attributes::<A>(mapping));
        if mapped.is_err() && cursor.at > first {
            self.undo(m, first, cursor.at - first);
        }
        mapped
    }

    fn map_all<M: TableMemory, I: Iterator<Item: FrameRun>>(
        &mut self,
        m: &mut M,
        cursor: &mut RunCursor<I>,
        attributes: u64,
    ) -> Result<(), MapError<A>> {
        while cursor.left() > 0 {
            if cursor.left() > self.input.len().saturating_sub(cursor.at) {
                return Err(MapError::OutOfRange(self.input.address(cursor.at)));
            }
            // One iteration per table, not per leaf.
            let step = cursor.step();
            let found = self.walk(m, cursor.at, step.level);
            if found.level == step.level {
                self.fill_table(m, found.table, step, cursor, attributes)?;
            } else if found.entry.is_valid() {
                return Err(MapError::AlreadyMapped(self.input.address(cursor.at)));
            } else {
                self.fill_new_table(m, &found, step, cursor, attributes)?;
            }
        }
        cursor.finish().map_err(|last| self.output.exceeded_by(last))
    }

    /// Writes leaves into a linked table.
    #[inline]
    fn fill_table<M: TableMemory, I: Iterator<Item: FrameRun>>(
        &mut self,
        m: &mut M,
        table: PhysAddr,
        step: LeafStep,
        cursor: &mut RunCursor<I>,
        attributes: u64,
    ) -> Result<(), MapError<A>> {
        let len = if step.level == self.start_level { self.input.root_len() } else { TABLE_LEN };
        let filled = fill(&m.entries(TableRef::new(table))[..len], step, cursor, attributes);
        record_filled(m, table, &filled);
        match filled.occupied {
            None => Ok(()),
            Some(slot) => self.unlink_empty_table(m, table, step.level, slot, cursor.at),
        }
    }

    /// Fills a new table, then links it, with the tables on the path to it, where the walk ended.
    #[inline(never)]
    fn fill_new_table<M: TableMemory, I: Iterator<Item: FrameRun>>(
        &mut self,
        m: &mut M,
        found: &WalkEnd,
        step: LeafStep,
        cursor: &mut RunCursor<I>,
        attributes: u64,
    ) -> Result<(), MapError<A>> {
        if self.is_root_fixed() && found.level == self.start_level {
            return Err(MapError::FixedRoot(self.input.address(cursor.at)));
        }
        let (top, table) = Self::new_tables(m, cursor.at, found.level + 1, step.level)?;
        let filled = fill(m.entries(TableRef::new(table)), step, cursor, attributes);
        record_filled(m, table, &filled);
        m.order_before_link();
        write_link(m, found.table, found.slot, top);
        self.tables += u32::from(step.level - found.level);
        Ok(())
    }

    /// New tables for `at` from level `top` to level `bottom`, each linked to the next. Returns the first and
    /// the last.
    pub(crate) fn new_tables<M: TableMemory>(
        m: &mut M,
        at: u64,
        top: u8,
        bottom: u8,
    ) -> Result<(PhysAddr, PhysAddr), OutOfTables> {
        let frame = m.allocate().ok_or(OutOfTables)?;
        if top == bottom {
            let table = frame.release();
            return Ok((table, table));
        }
        match Self::new_tables(m, at, top + 1, bottom) {
            Ok((next, last)) => {
                let table = frame.release();
                write_link(m, table, index(at, top), next);
                Ok((table, last))
            }
            Err(error) => {
                m.release(frame);
                Err(error)
            }
        }
    }

    /// Unlinks the empty table in `slot`, for a leaf of `level` to replace it; `at` is in the same table. Any
    /// other entry is an existing mapping.
    fn unlink_empty_table<M: TableMemory>(
        &mut self,
        m: &mut M,
        table: PhysAddr,
        level: u8,
        slot: usize,
        at: u64,
    ) -> Result<(), MapError<A>> {
        let start = slot_start(at, level, slot);
        let entry = load(&m.entries(TableRef::new(table))[slot]);
        if !entry.is_table(level) || valid_count(m, entry.output()) > 0 {
            let at = self.first_mapped(m, entry, level, start);
            return Err(MapError::AlreadyMapped(self.input.address(at)));
        }
        clear_slot(m, table, slot);
        m.invalidate(self.input.address(start).raw(), size(level));
        self.reset_spare(level + 1, start);
        self.tables -= 1;
        m.release(TableFrame::unlinked(entry.output()));
        Ok(())
    }

    /// The first mapped address below a valid `entry` that translates from `start` on.
    fn first_mapped<M: TableMemory>(&self, m: &M, entry: Descriptor, level: u8, start: u64) -> u64 {
        if !entry.is_table(level) {
            return start;
        }
        let below = m.entries(TableRef::new(entry.output())).iter().map(load).enumerate();
        below
            .filter(|(_, below)| below.is_valid())
            .map(|(slot, below)| {
                self.first_mapped(m, below, level + 1, start + slot as u64 * size(level + 1))
            })
            .next()
            .unwrap_or(start)
    }

    /// Undoes the first `len` bytes of a failed map. All entries there are its own, since no valid entry is
    /// ever overwritten. Walkers may have cached them, so the tables are released after an invalidation.
    fn undo<M: TableMemory>(&mut self, m: &mut M, first: u64, len: u64) {
        let mut cleared = Cleared::unlinking_all();
        self.clear(m, self.root, self.start_level, first, first + len - 1, &mut cleared);
        m.invalidate(self.input.address(first).raw(), len);
        cleared.stale.release(m);
    }
}

/// Reports the written slots of a table, and counts them.
fn record_filled<M: TableMemory>(m: &M, table: PhysAddr, filled: &Filled) {
    if filled.end > filled.first {
        m.entries_written(&m.entries(TableRef::new(table))[filled.first..filled.end]);
        add_valid(m, table, filled.end - filled.first);
    }
}
