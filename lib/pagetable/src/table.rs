//! The tree of tables: construction, destruction, walks, and access to entries.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{InputSpace, LAST_LEVEL, OutputSize, TABLE_LEN, index, shift};
use crate::{InputAddress, StaleTables, TableMemory, TableRef};
use addr::PhysAddr;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// No frame for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

/// A tree of tables of one format for one input address space.
///
/// The caller serializes all operations with a lock; walkers read at any time. Dropping it leaks its tables:
/// [`PageTable::destroy`] releases them.
#[derive(Debug)]
pub struct PageTable<F, A> {
    pub(crate) input: InputSpace<A>,
    pub(crate) root: PhysAddr,
    pub(crate) start_level: u8,
    pub(crate) tables: u32,
    pub(crate) spare: Spare,
    pub(crate) output: OutputSize,
    /// Whether the root's entries never change again.
    pub(crate) is_root_fixed: bool,
    format: PhantomData<F>,
}

/// The spare table: an empty table that stays linked. At most one table in the tree is empty at any time,
/// apart from the root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spare {
    /// The tree keeps no spare table.
    Never,
    /// The next table that becomes empty becomes the spare table.
    Free,
    /// `table`, which translates `at`, became the spare table. It may have been filled since.
    Kept { table: PhysAddr, at: u64 },
}

/// The entry where a walk ended.
pub(crate) struct WalkEnd {
    pub table: PhysAddr,
    pub level: u8,
    pub slot: usize,
    pub entry: Descriptor,
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// An empty tree for `input_bits` bits of input address: 64 minus TxSZ, from 25 to 48 (panics otherwise).
    ///
    /// Walks start at [`PageTable::start_level`], which needs a single root table. For stage 2 of 40 bits or
    /// more that is a level 0 table, which hardware with less than 44 bits of physical address does not
    /// support: use 39 bits there. Concatenated tables are not used.
    pub fn new<M: TableMemory>(m: &mut M, input_bits: u8) -> Result<Self, OutOfTables> {
        let input = InputSpace::new(input_bits);
        let root = m.allocate().ok_or(OutOfTables)?.release();
        let start_level = input.start_level();
        let (spare, is_root_fixed) = (Spare::Never, false);
        let output = OutputSize::ENTRY;
        Ok(Self { input, root, start_level, tables: 1, spare, output, is_root_fixed, format: PhantomData })
    }

    /// The same tree for a walker of this output address size: larger addresses are not mapped.
    pub fn with_output_size(self, output: OutputSize) -> Self {
        Self { output, ..self }
    }

    /// The same tree, which keeps one empty table linked as a spare, so that mapping and unmapping one buffer
    /// repeatedly does not allocate and release its tables each time.
    pub fn with_spare_table(self) -> Self {
        Self { spare: Spare::Free, ..self }
    }

    /// The root table, for TTBRn, CD.TTB0 or STE.S2TTB.
    pub fn root(&self) -> PhysAddr {
        self.root
    }
    /// Bits of input address.
    pub fn input_bits(&self) -> u8 {
        self.input.bits()
    }
    /// The level of the root table (for VTCR.SL0 and STE.S2SL0; stage 1 walkers derive it from TxSZ).
    pub fn start_level(&self) -> u8 {
        self.start_level
    }
    /// The number of tables in the tree, the root included.
    pub fn tables(&self) -> u32 {
        self.tables
    }

    /// Releases all tables, including those with mappings. The caller has removed the root from all walkers,
    /// and invalidated their TLBs and walk caches.
    pub fn destroy<M: TableMemory>(self, m: &mut M) {
        let mut all = StaleTables::new();
        Self::collect(m, self.root, self.start_level, &mut all);
        debug_assert_eq!(all.count(), self.tables);
        all.release(m);
    }

    /// Walks to the table of level `stop`, or as far as there are tables.
    #[inline]
    pub(crate) fn walk<M: TableMemory>(&self, m: &M, at: u64, stop: u8) -> WalkEnd {
        let (mut table, mut level) = (self.root, self.start_level);
        let mut shift = shift(level);
        loop {
            let slot = (at >> shift) as usize & (TABLE_LEN - 1);
            let entry = load(&m.entries(TableRef::new(table))[slot]);
            if level == stop || !entry.is_table(level) {
                return WalkEnd { table, level, slot, entry };
            }
            (table, level, shift) = (entry.output(), level + 1, shift - 9);
        }
    }

    /// The lowest table that translates all of `first` to `last`, or the one of the block that does, and its
    /// level. For operations on a range, which descend from there: for a page it saves three calls of four.
    #[inline]
    pub(crate) fn common_table<M: TableMemory>(&self, m: &M, first: u64, last: u64) -> (PhysAddr, u8) {
        let (mut table, mut level) = (self.root, self.start_level);
        loop {
            let slot = index(first, level);
            let entry = load(&m.entries(TableRef::new(table))[slot]);
            if slot != index(last, level) || !entry.is_table(level) {
                return (table, level);
            }
            (table, level) = (entry.output(), level + 1);
        }
    }

    /// Adds the unlinked `table` and all tables below it to `stale`.
    pub(crate) fn collect<M: TableMemory>(m: &M, table: PhysAddr, level: u8, stale: &mut StaleTables) {
        if level < LAST_LEVEL {
            let entries = m.entries(TableRef::new(table));
            for slot in used_slots(entries, 0..TABLE_LEN).take(valid_count(m, table).into()) {
                let entry = load(&entries[slot]);
                if entry.is_table(level) {
                    Self::collect(m, entry.output(), level + 1, stale);
                }
            }
        }
        stale.push(m, table);
    }

    /// Removes `table` of `level`, which translated `at`, and all tables below it from the tree. The caller
    /// clears the entry that points to it.
    pub(crate) fn unlink<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        level: u8,
        at: u64,
        stale: &mut StaleTables,
    ) {
        let before = stale.count();
        Self::collect(m, table, level, stale);
        self.tables -= stale.count() - before;
        self.reset_spare(level, at);
    }

    /// Resets the spare table if it is the table of `level` that translates `at`, or below that: it is
    /// unlinked.
    pub(crate) fn reset_spare(&mut self, level: u8, at: u64) {
        if let Spare::Kept { at: kept, .. } = self.spare
            && (kept ^ at) >> shift(level - 1) == 0
        {
            self.spare = Spare::Free;
        }
    }

    /// Whether `table`, which has become empty and translates from `at` on, stays linked as the spare table.
    pub(crate) fn keep_as_spare<M: TableMemory>(
        &mut self,
        m: &M,
        table: PhysAddr,
        at: u64,
        may_keep_another: bool,
    ) -> bool {
        match self.spare {
            Spare::Kept { table: kept, .. } if kept == table => true,
            Spare::Kept { table: kept, .. } if valid_count(m, kept) == 0 => false,
            Spare::Free | Spare::Kept { .. } if may_keep_another => {
                self.spare = Spare::Kept { table, at };
                true
            }
            Spare::Never | Spare::Free | Spare::Kept { .. } => false,
        }
    }
}

/// Loads an entry. Relaxed: only the lock holder writes, and the [`TableMemory`] hooks order stores for
/// walkers.
pub(crate) fn load(slot: &AtomicU64) -> Descriptor {
    Descriptor::from_bits(slot.load(Relaxed))
}

/// The slots in `slots` whose entries are not zero, ascending, as they are when each is reached.
pub(crate) fn used_slots(entries: &[AtomicU64], slots: Range<usize>) -> impl Iterator<Item = usize> {
    let mut left = slots;
    core::iter::from_fn(move || {
        let slot = next_used(entries, left.clone())?;
        left.start = slot + 1;
        Some(slot)
    })
}

/// The first of `slots` whose entry is not zero. Zeroes are skipped eight at a time, which saves half of the
/// instructions.
#[inline]
pub(crate) fn next_used(entries: &[AtomicU64], slots: Range<usize>) -> Option<usize> {
    let is_used = |slot: &AtomicU64| slot.load(Relaxed) != 0;
    let from = &entries[slots.clone()];
    if from.first().is_some_and(is_used) {
        return Some(slots.start);
    }
    let is_zero = |eight: &&[AtomicU64; 8]| eight.iter().fold(0, |bits, slot| bits | slot.load(Relaxed)) == 0;
    let zeroes = 8 * from.as_chunks().0.iter().take_while(is_zero).count();
    from[zeroes..].iter().position(is_used).map(|slot| slots.start + zeroes + slot)
}

/// Writes an entry in a single store, as walkers require.
pub(crate) fn store(slot: &AtomicU64, entry: Descriptor) {
    slot.store(entry.bits(), Relaxed);
}

/// Writes `leaf` and its successors, each `size` bytes further, to `slots`.
#[inline(always)]
pub(crate) fn write_leaves(slots: &[AtomicU64], mut leaf: Descriptor, size: u64) {
    for slot in slots {
        store(slot, leaf);
        leaf = leaf.advanced(size);
    }
}

/// The number of valid entries in `table`.
pub(crate) fn valid_count<M: TableMemory>(m: &M, table: PhysAddr) -> u16 {
    m.valid_entries(TableRef::new(table)).load(Relaxed)
}

/// Adds `count` to the valid entries of `table`. A load and a store, since only the lock holder writes the
/// counter.
pub(crate) fn add_valid<M: TableMemory>(m: &M, table: PhysAddr, count: usize) {
    let counter = m.valid_entries(TableRef::new(table));
    counter.store(counter.load(Relaxed) + count as u16, Relaxed);
}

/// Subtracts `count` from the valid entries of `table`.
pub(crate) fn drop_valid<M: TableMemory>(m: &M, table: PhysAddr, count: usize) {
    let counter = m.valid_entries(TableRef::new(table));
    counter.store(counter.load(Relaxed) - count as u16, Relaxed);
}

/// Links `to`, whose contents are ordered before this ([`TableMemory::order_before_link`]), in `slot` of
/// `table`.
pub(crate) fn write_link<M: TableMemory>(m: &M, table: PhysAddr, slot: usize, to: PhysAddr) {
    let entries = m.entries(TableRef::new(table));
    store(&entries[slot], Descriptor::table(to));
    m.entries_written(&entries[slot..=slot]);
    add_valid(m, table, 1);
}

/// Clears the valid entry in `slot` of `table`.
pub(crate) fn clear_slot<M: TableMemory>(m: &M, table: PhysAddr, slot: usize) {
    let entries = m.entries(TableRef::new(table));
    store(&entries[slot], Descriptor::INVALID);
    m.entries_written(&entries[slot..=slot]);
    drop_valid(m, table, 1);
}
