//! Mapping: invalid entries become valid, and nothing else changes.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{LAST_LEVEL, index, shift, size, slot_start};
use crate::steps::{Cursor, Step};
use crate::table::{add_live, clear_slot, live, load, store, write_link};
use crate::{Access, InputAddress, Mapping, OutOfTables, PageTable, StaleTables, TableMemory};
use addr::{Chunk, PAGE_SIZE, PhysAddr};
use core::sync::atomic::AtomicU64;

/// Why a range was not mapped. Nothing of it is: what was done until then has been undone and invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError<A> {
    /// No frame for a table.
    OutOfTables,
    /// There is a mapping at this address already.
    AlreadyMapped(A),
    /// This start is not a multiple of 4 KiB.
    Misaligned(A),
    /// What goes to this address passes the end of the input address space.
    OutOfRange(A),
    /// A run of chunks from this address on passes the 48 bits of an entry.
    OutputTooLarge(PhysAddr),
    /// This translation stage cannot give just these rights.
    Inexpressible(Access),
}

impl<A> From<OutOfTables> for MapError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// A table to be filled, and the entry that will make it reachable if it is new.
struct Place {
    table: PhysAddr,
    link: Option<Link>,
}

/// New tables, one in the other, that nothing leads to yet.
struct Link {
    /// The live table that will lead to them, its slot, and what goes there.
    table: PhysAddr,
    slot: usize,
    top: PhysAddr,
    tables: u32,
}

/// What went into one table.
struct Filled {
    first: usize,
    end: usize,
    /// The slot that was not free where a leaf had to go.
    occupied: Option<usize>,
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Maps `chunks`, one after the other, from `at` on.
    ///
    /// Leaves are as large as input and output allow; neighbouring chunks count as one. Every entry is written once,
    /// and a table is filled before it is linked. The caller makes the entries seen before it hands out the range.
    ///
    /// After an error nothing of the range is mapped and nothing of it is in a TLB: entries that had been written
    /// were taken back through [`TableMemory::invalidate`], their tables released.
    pub fn map<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        chunks: impl IntoIterator<Item = Chunk>,
        mapping: Mapping,
    ) -> Result<(), MapError<A>> {
        if !at.is_aligned(PAGE_SIZE) {
            return Err(MapError::Misaligned(at));
        }
        if !F::can_express(mapping.access()) {
            return Err(MapError::Inexpressible(mapping.access()));
        }
        let first = self.input.offset(at).ok_or(MapError::OutOfRange(at))?;
        let mut cursor = Cursor::new(first, chunks.into_iter());
        let mapped = self.map_all(m, &mut cursor, mapping);
        if mapped.is_err() && cursor.at > first {
            self.take_back(m, first, cursor.at - first);
        }
        mapped
    }

    fn map_all<M: TableMemory, I: Iterator<Item = Chunk>>(
        &mut self,
        m: &mut M,
        cursor: &mut Cursor<I>,
        mapping: Mapping,
    ) -> Result<(), MapError<A>> {
        let attributes = F::attributes::<A>(mapping);
        let top_level = if mapping.is_pages_only() { LAST_LEVEL } else { self.start_level };
        while cursor.left > 0 {
            if cursor.left > self.input.len().saturating_sub(cursor.at) {
                return Err(MapError::OutOfRange(self.input.address(cursor.at)));
            }
            // One turn for each table, not for each leaf.
            let level = Step::first(cursor.at, cursor.to, cursor.left, top_level).level;
            let place = self.place(m, cursor.at, level)?;
            let entries = &m.entries(place.table)[..self.input.entries(level)];
            let filled = fill(entries, level, cursor, attributes, top_level);
            self.publish(m, &place, &filled);
            if let Some(slot) = filled.occupied {
                self.make_room(m, place.table, level, slot, cursor.at)?;
            }
        }
        cursor.ended().map_err(MapError::OutputTooLarge)
    }

    /// The table of `level` for `at`; if need be a new one, not linked yet.
    fn place<M: TableMemory>(&mut self, m: &mut M, at: u64, level: u8) -> Result<Place, MapError<A>> {
        let mut table = self.root;
        for above in self.start_level..level {
            let slot = index(at, above);
            let entry = load(&m.entries(table)[slot]);
            if entry.is_table(above) {
                table = entry.output();
            } else if entry.is_valid() {
                return Err(MapError::AlreadyMapped(self.input.address(at)));
            } else {
                let (top, bottom) = Self::new_tables(m, at, above + 1, level)?;
                let tables = u32::from(level - above);
                return Ok(Place { table: bottom, link: Some(Link { table, slot, top, tables }) });
            }
        }
        Ok(Place { table, link: None })
    }

    /// New tables for `at` from level `top` to level `bottom`, each leading to the next.
    fn new_tables<M: TableMemory>(
        m: &mut M,
        at: u64,
        top: u8,
        bottom: u8,
    ) -> Result<(PhysAddr, PhysAddr), OutOfTables> {
        let table = m.allocate().ok_or(OutOfTables)?;
        if top == bottom {
            return Ok((table, table));
        }
        match Self::new_tables(m, at, top + 1, bottom) {
            Ok((next, last)) => {
                write_link(m, table, index(at, top), next);
                Ok((table, last))
            }
            Err(error) => {
                m.release(table);
                Err(error)
            }
        }
    }

    /// Accounts for what was filled in, then makes it reachable.
    fn publish<M: TableMemory>(&mut self, m: &M, place: &Place, filled: &Filled) {
        if filled.end > filled.first {
            m.written(&m.entries(place.table)[filled.first..filled.end]);
            add_live(m, place.table, filled.end - filled.first);
        }
        if let Some(link) = &place.link {
            m.publish();
            write_link(m, link.table, link.slot, link.top);
            self.tables += link.tables;
        }
    }

    /// Unlinks the empty table that a leaf of `level` has to replace in `slot`; `at` is in the same table. Anything
    /// else there is a mapping that was there before.
    fn make_room<M: TableMemory>(
        &mut self,
        m: &mut M,
        table: PhysAddr,
        level: u8,
        slot: usize,
        at: u64,
    ) -> Result<(), MapError<A>> {
        let start = slot_start(at, level, slot);
        let entry = load(&m.entries(table)[slot]);
        if !entry.is_table(level) || live(m, entry.output()) > 0 {
            let at = self.first_mapped(m, entry, level, start);
            return Err(MapError::AlreadyMapped(self.input.address(at)));
        }
        clear_slot(m, table, slot);
        m.invalidate(self.input.address(start).raw(), size(level));
        self.forget_spare(level + 1, start);
        self.tables -= 1;
        m.release(entry.output());
        Ok(())
    }

    /// The first mapped address under a valid `entry`, which translates from `start` on.
    fn first_mapped<M: TableMemory>(&self, m: &M, entry: Descriptor, level: u8, start: u64) -> u64 {
        if !entry.is_table(level) {
            return start;
        }
        let below = m.entries(entry.output()).iter().map(load).enumerate();
        below
            .filter(|(_, below)| below.is_valid())
            .map(|(slot, below)| {
                self.first_mapped(m, below, level + 1, start + slot as u64 * size(level + 1))
            })
            .next()
            .unwrap_or(start)
    }

    /// Undoes the first `len` bytes of a map that failed. All entries there are its own, as no valid one was
    /// overwritten; they may have been walked, so the tables go back only after an invalidation.
    fn take_back<M: TableMemory>(&mut self, m: &mut M, first: u64, len: u64) {
        let mut stale = StaleTables::new();
        self.clear(m, self.root, self.start_level, first, first + len - 1, &mut stale);
        m.invalidate(self.input.address(first).raw(), len);
        stale.release(m);
    }
}

/// Writes leaves into one table until it or the list is at its end, another level's turn comes, or a slot is taken.
#[inline]
fn fill<I: Iterator<Item = Chunk>>(
    entries: &[AtomicU64],
    level: u8,
    cursor: &mut Cursor<I>,
    attributes: u64,
    top_level: u8,
) -> Filled {
    let first = index(cursor.at, level);
    let mut end = first;
    while cursor.left > 0 && end < entries.len() {
        let step = Step::first(cursor.at, cursor.to, cursor.left, top_level);
        if step.level != level {
            break;
        }
        let count = (step.leaves as usize).min(entries.len() - end);
        let slots = &entries[end..end + count];
        if let Some(taken) = slots.iter().position(|slot| load(slot).is_valid()) {
            return Filled { first, end, occupied: Some(end + taken) };
        }
        let mut leaf = Descriptor::leaf(PhysAddr::new(cursor.to), level, attributes);
        if step.contiguous {
            leaf = leaf.contiguous();
        }
        for (slot, n) in slots.iter().zip(0..) {
            store(slot, leaf.further(n << shift(level)));
        }
        end += count;
        cursor.advance((count as u64) << shift(level));
    }
    Filled { first, end, occupied: None }
}
