//! The tree: its root, its size, its beginning and end.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{InputSpace, LAST_LEVEL, TABLE_LEN, shift};
use crate::{InputAddress, StaleTables, TableMemory};
use addr::PhysAddr;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// No frame for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

/// A tree of tables of one format for one input address space.
///
/// Belongs to whoever holds the lock around it; walkers read it at any time. Dropping it leaks its tables:
/// [`PageTable::destroy`] gives them back.
#[derive(Debug)]
pub struct PageTable<F, A> {
    pub(crate) input: InputSpace<A>,
    pub(crate) root: PhysAddr,
    pub(crate) start_level: u8,
    pub(crate) tables: u32,
    pub(crate) spare: Spare,
    /// Whether entries of the root are never written again.
    pub(crate) is_root_fixed: bool,
    format: PhantomData<F>,
}

/// Whether a table that becomes empty may stay, and which one did. At most one table in the tree is empty at any
/// time, apart from the root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spare {
    /// Empty tables are unlinked at once.
    Never,
    /// The first table that becomes empty stays.
    Free,
    /// `table`, which translates `at`, stayed when it became empty. It may have been filled since.
    Kept { table: PhysAddr, at: u64 },
}

/// Where a walk ended.
pub(crate) struct WalkEnd {
    pub table: PhysAddr,
    pub level: u8,
    pub slot: usize,
    pub entry: Descriptor,
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// An empty tree for `input_bits` bits of input address: 64 minus TxSZ, from 25 to 48 (panics otherwise).
    ///
    /// The walk starts at [`PageTable::start_level`], the one that needs a single table at the root. For stage 2
    /// that is a level 0 table from 40 bits on, which hardware with less than 44 bits of physical address does not
    /// have: give such a domain 39 bits. Concatenated tables are not used.
    pub fn new<M: TableMemory>(m: &mut M, input_bits: u8) -> Result<Self, OutOfTables> {
        let input = InputSpace::new(input_bits);
        let root = m.allocate().ok_or(OutOfTables)?.release();
        let start_level = input.start_level();
        let (spare, is_root_fixed) = (Spare::Never, false);
        Ok(Self { input, root, start_level, tables: 1, spare, is_root_fixed, format: PhantomData })
    }

    /// The same tree, which from now on keeps one table that becomes empty instead of unlinking it, so that mapping
    /// and unmapping a single buffer over and over does not take and give back its tables each time.
    /// [`PageTable::trim`] takes the table out again.
    pub fn with_spare_table(self) -> Self {
        Self { spare: Spare::Free, ..self }
    }

    /// The first table: what TTBRn, CD.TTB0 or STE.S2TTB hold.
    pub fn root(&self) -> PhysAddr {
        self.root
    }
    /// Bits of input address.
    pub fn input_bits(&self) -> u8 {
        self.input.bits()
    }
    /// The level of the root table (for VTCR.SL0 and STE.S2SL0; stage 1 walkers know it from TxSZ).
    pub fn start_level(&self) -> u8 {
        self.start_level
    }
    /// The frames in the tree: the root, and every table that an entry leads to.
    pub fn tables(&self) -> u32 {
        self.tables
    }

    /// Gives all tables back, whatever is mapped. The caller has taken the root from every walker and invalidated
    /// what they cached.
    pub fn destroy<M: TableMemory>(self, m: &mut M) {
        let mut all = StaleTables::new();
        Self::collect(m, self.root, self.start_level, &mut all);
        debug_assert_eq!(all.count(), self.tables);
        all.release(m);
    }

    /// Walks as far as there are tables, at most to `stop`.
    #[inline]
    pub(crate) fn walk<M: TableMemory>(&self, m: &M, at: u64, stop: u8) -> WalkEnd {
        let (mut table, mut level) = (self.root, self.start_level);
        let mut shift = shift(level);
        loop {
            let slot = (at >> shift) as usize & (TABLE_LEN - 1);
            let entry = load(&m.entries(table)[slot]);
            if level == stop || !entry.is_table(level) {
                return WalkEnd { table, level, slot, entry };
            }
            (table, level, shift) = (entry.output(), level + 1, shift - 9);
        }
    }

    /// Adds `table`, which nothing leads to any more, and every table under it.
    pub(crate) fn collect<M: TableMemory>(m: &M, table: PhysAddr, level: u8, stale: &mut StaleTables) {
        if level < LAST_LEVEL {
            let valid = m.entries(table).iter().map(load).filter(|entry| entry.is_valid());
            for entry in valid.take(valid_count(m, table).into()).filter(|entry| entry.is_table(level)) {
                Self::collect(m, entry.output(), level + 1, stale);
            }
        }
        stale.push(m, table);
    }

    /// Takes `table` of `level`, which translated `at`, out of the tree with all under it; the entry that led to it
    /// is gone.
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
        self.forget_spare(level, at);
    }

    /// The spare table is no longer linked if it was the table of `level` that translates `at`, or under that.
    pub(crate) fn forget_spare(&mut self, level: u8, at: u64) {
        if let Spare::Kept { at: kept, .. } = self.spare
            && (kept ^ at) >> shift(level - 1) == 0
        {
            self.spare = Spare::Free;
        }
    }

    /// Whether `table`, which just became empty, stays as the spare one. It translates from `at` on.
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

/// The entry in `slot`. No ordering: only the lock's holder writes, and walkers are the hooks' business.
pub(crate) fn load(slot: &AtomicU64) -> Descriptor {
    Descriptor::from_bits(slot.load(Relaxed))
}

/// Writes an entry, in one store as the walker requires.
pub(crate) fn store(slot: &AtomicU64, entry: Descriptor) {
    slot.store(entry.bits(), Relaxed);
}

/// The number of valid entries in `table`.
pub(crate) fn valid_count<M: TableMemory>(m: &M, table: PhysAddr) -> u16 {
    m.valid_entries(table).load(Relaxed)
}

/// `count` more entries of `table` are valid. A load and a store: nobody else counts.
pub(crate) fn add_valid<M: TableMemory>(m: &M, table: PhysAddr, count: usize) {
    let counter = m.valid_entries(table);
    counter.store(counter.load(Relaxed) + count as u16, Relaxed);
}

/// `count` entries of `table` became invalid.
pub(crate) fn drop_valid<M: TableMemory>(m: &M, table: PhysAddr, count: usize) {
    let counter = m.valid_entries(table);
    counter.store(counter.load(Relaxed) - count as u16, Relaxed);
}

/// Makes `to`, whose contents are published, reachable from `slot` of `table`.
pub(crate) fn write_link<M: TableMemory>(m: &M, table: PhysAddr, slot: usize, to: PhysAddr) {
    let entries = m.entries(table);
    store(&entries[slot], Descriptor::table(to));
    m.entries_written(&entries[slot..=slot]);
    add_valid(m, table, 1);
}

/// Makes the valid entry in `slot` of `table` invalid.
pub(crate) fn clear_slot<M: TableMemory>(m: &M, table: PhysAddr, slot: usize) {
    let entries = m.entries(table);
    store(&entries[slot], Descriptor::INVALID);
    m.entries_written(&entries[slot..=slot]);
    drop_valid(m, table, 1);
}
