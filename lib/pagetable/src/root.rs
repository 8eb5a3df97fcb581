//! Roots of several walkers that lead to the same tables, but for one slot of each walker's own.

use crate::descriptor::Descriptor;
use crate::geometry::{InputSpace, LAST_LEVEL, TABLE_LEN, index, size};
use crate::table::{add_valid, load, store, write_link};
use crate::{Format, InputAddress, MapError, OutOfTables, PageTable, TableMemory};
use addr::{AddrRange, PhysAddr};
use core::marker::PhantomData;

/// Says that a tree's root never changes again: a copy of it leads wherever the root itself will ever lead.
///
/// Only [`PageTable::fix_root`] makes one, and the tree is never destroyed.
#[derive(Debug)]
pub struct FixedRoot<F, A> {
    input: InputSpace<A>,
    root: PhysAddr,
    level: u8,
    format: PhantomData<F>,
}

/// A root for one walker alone, with tables of its own in one slot, which no tree knows.
#[derive(Clone, Copy, Debug)]
pub struct PerCpuRoot {
    root: PhysAddr,
    slot: usize,
    blocks: PhysAddr,
    pages: PhysAddr,
}

impl PerCpuRoot {
    /// The frames that it takes: the root, and a table of each level below.
    pub const TABLES: u64 = LAST_LEVEL as u64 + 1;

    /// What goes into TTBRn.
    pub fn root(&self) -> PhysAddr {
        self.root
    }
    /// Its table of level 2, whose second entry leads to [`PerCpuRoot::pages`] and whose others lead nowhere.
    pub fn blocks(&self) -> PhysAddr {
        self.blocks
    }
    /// Its table of level 3, with nothing in it.
    pub fn pages(&self) -> PhysAddr {
        self.pages
    }
    /// All that no tree knows: the root, and what is below its own slot.
    pub fn tables<M: TableMemory>(&self, m: &M) -> [PhysAddr; Self::TABLES as usize] {
        [self.root, load(&m.entries(self.root)[self.slot]).output(), self.blocks, self.pages]
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Whether entries of the root are never written again. Asked of trees for [`InputAddress::UPPER`] alone: others, whose
    /// operations cost more than this question may, have one walker or several from the same root.
    #[inline]
    pub(crate) fn is_root_fixed(&self) -> bool {
        A::UPPER && self.is_root_fixed
    }

    /// Gives the root a table for every slot that `ranges` touch, and fixes it: what is mapped later has to lie in these
    /// slots or in those that were in use before ([`MapError::FixedRoot`]), and tables at the root's entries stay linked
    /// when they become empty. Once for a tree.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`], [`MapError::OutOfRange`]. The tables that were made stay until something is unmapped.
    pub fn fix_root<M: TableMemory>(
        &mut self,
        m: &mut M,
        ranges: impl IntoIterator<Item = AddrRange<A>>,
    ) -> Result<FixedRoot<F, A>, MapError<A>> {
        const { assert!(A::UPPER, "nobody asks whether the root is fixed") };
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

    /// Links an empty table at `slot` of the root, if there is none.
    fn link_table<M: TableMemory>(&mut self, m: &mut M, slot: usize) -> Result<(), OutOfTables> {
        if !load(&m.entries(self.root)[slot]).is_valid() {
            let table = m.allocate().ok_or(OutOfTables)?;
            m.order_before_link();
            write_link(m, self.root, slot, table.release());
            self.tables += 1;
        }
        Ok(())
    }
}

impl<F: Format, A: InputAddress> FixedRoot<F, A> {
    /// A root that leads where this one does, and from `at` on to tables of its own: one of level 2 for blocks and one of
    /// level 3 for pages. The tree has nothing in that slot of the root. The caller makes the tables seen before a walker
    /// uses them.
    ///
    /// # Errors
    /// No frame for a table.
    ///
    /// # Panics
    /// When `at` is not where a slot of the root begins, or the tree has something there.
    pub fn per_cpu_root<M: TableMemory>(&self, m: &mut M, at: A) -> Result<PerCpuRoot, OutOfTables> {
        let Some(offset) = self.input.offset(at) else { panic!("{at:?} is outside of the tree") };
        assert!(offset.is_multiple_of(size(self.level)), "{at:?} is inside a slot");
        let slot = index(offset, self.level);
        assert!(!load(&m.entries(self.root)[slot]).is_valid(), "the tree has something at {at:?}");
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
        // Down from the root, always by the only valid entry.
        let blocks = (self.level + 1..2).fold(top, |table, _| load(&m.entries(table)[0]).output());
        Ok(PerCpuRoot { root, slot, blocks, pages })
    }

    fn copy_to<M: TableMemory>(&self, m: &M, root: PhysAddr) {
        let (from, to) = (m.entries(self.root), m.entries(root));
        for (from, to) in from.iter().zip(to) {
            store(to, load(from));
        }
        m.entries_written(to);
        add_valid(m, root, from.iter().filter(|entry| load(entry).is_valid()).count());
    }

    /// The first address, if any, at which `own` leads elsewhere than the tree does, besides its own slot.
    pub fn difference<M: TableMemory>(&self, m: &M, own: &PerCpuRoot) -> Option<A> {
        let entry = |root, slot: usize| -> Descriptor { load(&m.entries(root)[slot]) };
        let differs = |&slot: &usize| slot != own.slot && entry(self.root, slot) != entry(own.root, slot);
        let slot = (0..TABLE_LEN).find(differs)?;
        Some(self.input.address(slot as u64 * size(self.level)))
    }
}
