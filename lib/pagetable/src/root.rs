//! Per-CPU root tables that share all tables of a tree except those of one slot.

use crate::descriptor::Descriptor;
use crate::geometry::{InputSpace, LAST_LEVEL, TABLE_LEN, index, size};
use crate::table::{add_valid, load, store, write_link};
use crate::{Format, InputAddress, MapError, OutOfTables, PageTable, TableMemory, TableRef};
use addr::{AddrRange, PhysAddr};
use core::marker::PhantomData;

/// Proof that a tree's root never changes again: a copy of the root translates the same at all times.
///
/// Only [`PageTable::fix_root`] returns one, and the tree must never be destroyed.
#[derive(Debug)]
pub struct FixedRoot<F, A> {
    input: InputSpace<A>,
    root: PhysAddr,
    level: u8,
    format: PhantomData<F>,
}

/// The root for one CPU: a copy of the tree's root, with private tables in one slot, which are not part of
/// the tree. Its tables are never released.
#[derive(Clone, Copy, Debug)]
pub struct PerCpuRoot {
    root: PhysAddr,
    slot: usize,
    blocks: PhysAddr,
    pages: PhysAddr,
}

impl PerCpuRoot {
    /// The number of frames: the root, and one table of each lower level.
    pub const TABLES: u64 = LAST_LEVEL as u64 + 1;

    /// The root's address, for TTBRn.
    pub fn root(&self) -> PhysAddr {
        self.root
    }
    /// The private level 2 table: its second entry points to [`PerCpuRoot::pages`], the others are invalid.
    pub fn blocks(&self) -> TableRef<'static> {
        TableRef::new(self.blocks)
    }
    /// The private level 3 table, empty at first.
    pub fn pages(&self) -> TableRef<'static> {
        TableRef::new(self.pages)
    }
    /// All tables that are not part of the tree: the root, and the private tables.
    pub fn tables<M: TableMemory>(&self, m: &M) -> [PhysAddr; Self::TABLES as usize] {
        [self.root, load(&m.entries(TableRef::new(self.root))[self.slot]).output(), self.blocks, self.pages]
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Whether the root's entries never change again. Only checked for [`InputAddress::UPPER`] trees: all
    /// walkers of other trees use the same root, and the check would slow down their operations.
    #[inline]
    pub(crate) fn is_root_fixed(&self) -> bool {
        A::UPPER && self.is_root_fixed
    }

    /// Links a table in every slot of the root that `ranges` touch, and fixes the root: later mappings must
    /// be in these slots or in those used before ([`MapError::FixedRoot`]), and the root's tables stay linked
    /// when they become empty. Called once for a tree.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`], [`MapError::OutOfRange`]. The new tables stay until an unmap removes them.
    pub fn fix_root<M: TableMemory>(
        &mut self,
        m: &mut M,
        ranges: impl IntoIterator<Item = AddrRange<A>>,
    ) -> Result<FixedRoot<F, A>, MapError<A>> {
        const { assert!(A::UPPER, "a fixed root is only checked for in upper trees") };
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            let Ok((first, end)) = self.offsets(range) else {
                return Err(MapError::OutOfRange(range.start()));
            };
            for slot in index(first, self.start_level)..=index(end - 1, self.start_level) {
                self.link_table(m, slot)?;
            }
        }
        self.is_root_fixed = true;
        Ok(FixedRoot { input: self.input, root: self.root, level: self.start_level, format: PhantomData })
    }

    /// Links an empty table in `slot` of the root, unless there is one.
    fn link_table<M: TableMemory>(&mut self, m: &mut M, slot: usize) -> Result<(), OutOfTables> {
        if !load(&m.entries(TableRef::new(self.root))[slot]).is_valid() {
            let table = m.allocate().ok_or(OutOfTables)?;
            m.order_before_link();
            write_link(m, self.root, slot, table.release());
            self.tables += 1;
        }
        Ok(())
    }
}

impl<F: Format, A: InputAddress> FixedRoot<F, A> {
    /// A copy of the root, with private tables in the slot of `at`: one of level 2 for blocks and one of
    /// level 3 for pages. The tree has no entry in that slot. The caller makes the tables visible before a
    /// walker uses them.
    ///
    /// # Errors
    /// No frame for a table.
    ///
    /// # Panics
    /// If `at` is not the first address of a slot of the root, or the tree has an entry there.
    pub fn per_cpu_root<M: TableMemory>(&self, m: &mut M, at: A) -> Result<PerCpuRoot, OutOfTables> {
        let Some(offset) = self.input.offset(at) else { panic!("{at:?} is outside of the tree") };
        assert!(offset.is_multiple_of(size(self.level)), "{at:?} is inside a slot");
        let slot = index(offset, self.level);
        assert!(
            !load(&m.entries(TableRef::new(self.root))[slot]).is_valid(),
            "the tree has an entry at {at:?}"
        );
        let root = m.allocate().ok_or(OutOfTables)?;
        let below = PageTable::<F, A>::new_tables(m, offset + size(2), self.level + 1, LAST_LEVEL);
        let (top, pages) = match below {
            Ok(tables) => tables,
            Err(error) => {
                m.release(root);
                return Err(error);
            }
        };
        let root = root.release();
        self.copy_to(m, root);
        m.order_before_link();
        write_link(m, root, slot, top);
        // Down from the top, each time through the only valid entry.
        let blocks =
            (self.level + 1..2).fold(top, |table, _| load(&m.entries(TableRef::new(table))[0]).output());
        Ok(PerCpuRoot { root, slot, blocks, pages })
    }

    fn copy_to<M: TableMemory>(&self, m: &M, root: PhysAddr) {
        let (from, to) = (m.entries(TableRef::new(self.root)), m.entries(TableRef::new(root)));
        for (from, to) in from.iter().zip(to) {
            store(to, load(from));
        }
        m.entries_written(to);
        add_valid(m, root, from.iter().filter(|entry| load(entry).is_valid()).count());
    }

    /// The first address, if any, at which the copy `own` differs from the tree's root, except for the
    /// private slot.
    pub fn difference<M: TableMemory>(&self, m: &M, own: &PerCpuRoot) -> Option<A> {
        let entry = |root, slot: usize| -> Descriptor { load(&m.entries(TableRef::new(root))[slot]) };
        let differs = |&slot: &usize| slot != own.slot && entry(self.root, slot) != entry(own.root, slot);
        let slot = (0..TABLE_LEN).find(differs)?;
        Some(self.input.address(slot as u64 * size(self.level)))
    }
}
