//! Splitting blocks and contiguous groups at an address.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{GROUP_LEN, LAST_LEVEL, TABLE_LEN, index, size, slot_start};
use crate::table::{WalkEnd, add_valid, load, store};
use crate::{InputAddress, OutOfTables, PageTable, TableMemory, TableRef};
use addr::PhysAddr;
use core::ops::Range;

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Replaces the block of 2 MiB that translates `at`, if any, by pages without the contiguous hint, by
    /// break-before-make (D8.16.1). All translations stay the same.
    pub fn split_block<M: TableMemory>(&mut self, m: &mut M, at: A) -> Result<(), OutOfTables> {
        let Some(offset) = self.input.offset(at) else { return Ok(()) };
        let WalkEnd { table, level, slot, entry: block } = self.walk(m, offset, LAST_LEVEL);
        if level != LAST_LEVEL - 1 || !block.is_valid() || block.is_contiguous() {
            return Ok(());
        }
        let start = slot_start(offset, level, slot);
        let pages = self.split_table(m, block, LAST_LEVEL, start, false)?;
        self.break_slots(m, table, level, slot..slot + 1, start);
        let entries = &m.entries(TableRef::new(table))[slot..=slot];
        m.order_before_link();
        store(&entries[0], Descriptor::table(pages));
        m.entries_written(entries);
        m.order_before_link();
        Ok(())
    }

    /// Splits the leaf and the contiguous group that span `at`, if any. All translations stay the same.
    pub(crate) fn split_at<M: TableMemory>(&mut self, m: &mut M, at: u64) -> Result<(), OutOfTables> {
        if at >= self.input.len() {
            return Ok(());
        }
        let found = self.walk(m, at, LAST_LEVEL);
        if found.entry.is_valid() { self.split_leaf(m, at, found) } else { Ok(()) }
    }

    /// Replaces a block that spans `at` by a table, and a contiguous group that spans it by leaves without
    /// the hint: both in one break-before-make sequence.
    fn split_leaf<M: TableMemory>(&mut self, m: &mut M, at: u64, found: WalkEnd) -> Result<(), OutOfTables> {
        let WalkEnd { table, level, slot, entry: leaf } = found;
        let mask = size(level) - 1;
        let group = leaf.is_contiguous() && at & (size(level) * GROUP_LEN as u64 - 1) != 0;
        let inside = at & mask != 0;
        if !group && !inside {
            return Ok(());
        }
        let below = if inside { Some(self.split_table(m, leaf, level + 1, at, true)?) } else { None };
        let slots =
            if group { slot & !(GROUP_LEN - 1)..(slot | (GROUP_LEN - 1)) + 1 } else { slot..slot + 1 };
        self.break_slots(m, table, level, slots.clone(), at);
        m.order_before_link();
        let entries = &m.entries(TableRef::new(table))[slots.clone()];
        for (entry, n) in entries.iter().zip(slots) {
            let whole = load(entry).restored().without_contiguous();
            store(entry, below.filter(|_| n == slot).map_or(whole, Descriptor::table));
        }
        m.entries_written(entries);
        // The remaining translations must be visible to walkers when this returns.
        m.order_before_link();
        Ok(())
    }

    /// Makes valid leaves invalid, and invalidates them in all TLBs. [`Descriptor::restored`] reverts them.
    fn break_slots<M: TableMemory>(
        &self,
        m: &mut M,
        table: PhysAddr,
        level: u8,
        slots: Range<usize>,
        at: u64,
    ) {
        let entries = &m.entries(TableRef::new(table))[slots.clone()];
        for entry in entries {
            store(entry, load(entry).broken());
        }
        m.entries_written(entries);
        let start = self.input.address(slot_start(at, level, slots.start));
        m.invalidate(start.raw(), slots.len() as u64 * size(level));
    }

    /// A new table of `level` with the translations of the larger `leaf`, split at `at`; its leaves have the
    /// contiguous hint where possible if `has_hint`.
    fn split_table<M: TableMemory>(
        &mut self,
        m: &mut M,
        leaf: Descriptor,
        level: u8,
        at: u64,
        has_hint: bool,
    ) -> Result<PhysAddr, OutOfTables> {
        let frame = m.allocate().ok_or(OutOfTables)?;
        let first = Descriptor::leaf(leaf.output(), level, leaf.without_contiguous().attributes());
        let cut = index(at, level);
        let below = if at & (size(level) - 1) == 0 {
            None
        } else {
            let whole = first.advanced(cut as u64 * size(level));
            match self.split_table(m, whole, level + 1, at, has_hint) {
                Ok(below) => Some(below),
                Err(error) => {
                    m.release(frame);
                    return Err(error);
                }
            }
        };
        let table = frame.release();
        self.tables += 1;
        let group_at_cut = at & (size(level) * GROUP_LEN as u64 - 1) != 0;
        let entries = m.entries(TableRef::new(table));
        for (slot, entry) in entries.iter().enumerate() {
            let leaf = first.advanced(slot as u64 * size(level));
            let separate = !has_hint || group_at_cut && slot / GROUP_LEN == cut / GROUP_LEN;
            store(entry, if separate { leaf } else { leaf.contiguous() });
        }
        if let Some(below) = below {
            store(&entries[cut], Descriptor::table(below));
        }
        m.entries_written(entries);
        add_valid(m, table, TABLE_LEN);
        Ok(table)
    }
}
