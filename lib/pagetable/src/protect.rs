//! Changing access rights or memory type of mapped ranges.

use crate::change::EntryChange;
use crate::descriptor::Format;
use crate::geometry::{LAST_LEVEL, index, size, slot_start};
use crate::table::{load, store, used_slots};
use crate::unmap::BadRange;
use crate::{Access, InputAddress, Mapping, OutOfTables, PageTable, TableMemory, TableRef};
use addr::{AddrRange, Address, PhysAddr};
use core::ops::Range;

/// The reason a range was not changed. All its translations are unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtectError<A: Address> {
    /// No frame for splitting a block at the edge of the range.
    OutOfTables,
    /// The range is not page-aligned, or not inside the input address space.
    BadRange(AddrRange<A>),
    /// This translation stage cannot encode exactly these rights.
    Inexpressible(Access),
}

impl<A: Address> From<OutOfTables> for ProtectError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// The range of slots of one table that are broken and not restored yet: first, and the one after the last.
#[derive(Default)]
struct BrokenSlots(Option<(usize, usize)>);

impl BrokenSlots {
    fn add(&mut self, slot: usize) {
        self.0 = Some((self.0.map_or(slot, |(first, _)| first), slot + 1));
    }
    fn slots(&self) -> Option<Range<usize>> {
        self.0.map(|(first, end)| first..end)
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Changes the access rights and the memory type of all mapped pages in `range` to those of `mapping`;
    /// holes are allowed. Leaves keep their size (`pages_only` is ignored), except for blocks and groups that
    /// the range splits.
    ///
    /// Rights of leaves without the contiguous hint change in place: until the caller has invalidated the
    /// range, both the old and the new rights may be in effect. All other changes use break-before-make, and
    /// are in effect on return.
    pub fn protect<M: TableMemory>(
        &mut self,
        m: &mut M,
        range: AddrRange<A>,
        mapping: Mapping,
    ) -> Result<(), ProtectError<A>> {
        if !F::can_express(mapping.access()) {
            return Err(ProtectError::Inexpressible(mapping.access()));
        }
        let (first, end) = self.offsets(range).map_err(|BadRange| ProtectError::BadRange(range))?;
        if first < end {
            self.split_at(m, first)?;
            self.split_at(m, end)?;
            let (table, level) = self.common_table(m, first, end - 1);
            self.change(m, table, level, (first, end - 1), F::attributes::<A>(mapping));
        }
        Ok(())
    }

    /// Changes the leaves from `first` to `last`, which `table` contains; no leaf or group spans these
    /// borders.
    fn change<M: TableMemory>(
        &mut self,
        m: &mut M,
        table: PhysAddr,
        level: u8,
        (first, last): (u64, u64),
        attributes: u64,
    ) {
        let slots = index(first, level)..index(last, level) + 1;
        // The last level has leaves only.
        for slot in if level < LAST_LEVEL { slots.clone() } else { 0..0 } {
            let entry = load(&m.entries(TableRef::new(table))[slot]);
            if entry.is_table(level) {
                let start = slot_start(first, level, slot);
                let part = (first.max(start), last.min(start + size(level) - 1));
                self.change(m, entry.output(), level + 1, part, attributes);
            }
        }
        let broken = change_leaves::<F, M>(m, table, level, slots, attributes);
        if let Some(slots) = broken.slots() {
            let start = self.input.address(slot_start(first, level, slots.start));
            m.invalidate(start.raw(), slots.len() as u64 * size(level));
            restore_broken(m, table, slots, attributes);
        }
    }
}

/// Changes the leaves in `slots` that may change in place, and breaks the others.
fn change_leaves<F: Format, M: TableMemory>(
    m: &M,
    table: PhysAddr,
    level: u8,
    slots: Range<usize>,
    attributes: u64,
) -> BrokenSlots {
    let entries = m.entries(TableRef::new(table));
    let mut broken = BrokenSlots::default();
    let mut changed = false;
    for slot in used_slots(entries, slots.clone()) {
        let old = load(&entries[slot]);
        if !old.is_valid() || old.is_table(level) {
            continue;
        }
        let new = old.with_attributes(attributes);
        match EntryChange::between::<F>(old, new) {
            EntryChange::Unchanged => continue,
            EntryChange::InPlace => store(&entries[slot], new),
            EntryChange::BreakBeforeMake => {
                store(&entries[slot], old.broken());
                broken.add(slot);
            }
        }
        changed = true;
    }
    if changed {
        m.entries_written(&entries[slots]);
    }
    broken
}

/// Makes the broken leaves in `slots` valid again, with the new attributes.
fn restore_broken<M: TableMemory>(m: &M, table: PhysAddr, slots: Range<usize>, attributes: u64) {
    let entries = &m.entries(TableRef::new(table))[slots];
    for entry in entries {
        let old = load(entry);
        if old.is_broken() {
            store(entry, old.restored().with_attributes(attributes));
        }
    }
    m.entries_written(entries);
}
