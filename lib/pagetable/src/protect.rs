//! Changing rights or memory type of what is mapped.

use crate::change::EntryChange;
use crate::descriptor::Format;
use crate::geometry::{index, size, slot_start};
use crate::table::{load, store};
use crate::unmap::BadRange;
use crate::{Access, InputAddress, Mapping, OutOfTables, PageTable, TableMemory};
use addr::{AddrRange, Address, PhysAddr};
use core::ops::Range;

/// Why a range was not changed. All its translations are as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtectError<A: Address> {
    /// No frame for the table that a block at the range's edge has to be split into.
    OutOfTables,
    /// Not whole pages, or not inside the input address space.
    BadRange(AddrRange<A>),
    /// This translation stage cannot give just these rights.
    Inexpressible(Access),
}

impl<A: Address> From<OutOfTables> for ProtectError<A> {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

/// Leaves of one table that are broken and not mended yet.
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
    /// Gives everything that is mapped in `range` the rights and the memory type of `mapping`; holes are fine. The
    /// size of leaves stays (`pages_only` means nothing here), except for blocks and groups that the range cuts.
    ///
    /// Rights of separate leaves change live: until the caller has invalidated the range, both the old and the new
    /// may be in effect. Everything else goes through break-before-make, and is in effect on return.
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
            self.change(m, self.root, self.start_level, (first, end - 1), F::attributes::<A>(mapping));
        }
        Ok(())
    }

    /// Changes the leaves from `first` to `last` in `table`; both are in it, and no leaf or group reaches across.
    fn change<M: TableMemory>(
        &mut self,
        m: &mut M,
        table: PhysAddr,
        level: u8,
        (first, last): (u64, u64),
        attributes: u64,
    ) {
        let slots = index(first, level)..index(last, level) + 1;
        for slot in slots.clone() {
            let entry = load(&m.entries(table)[slot]);
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
            mend(m, table, slots, attributes);
        }
    }
}

/// Changes the leaves in `slots` that may change live, and breaks those that may not.
fn change_leaves<F: Format, M: TableMemory>(
    m: &M,
    table: PhysAddr,
    level: u8,
    slots: Range<usize>,
    attributes: u64,
) -> BrokenSlots {
    let entries = m.entries(table);
    let mut broken = BrokenSlots::default();
    let mut changed = false;
    for slot in slots.clone() {
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

/// Makes the broken leaves in `slots` valid again, with other attributes.
fn mend<M: TableMemory>(m: &M, table: PhysAddr, slots: Range<usize>, attributes: u64) {
    let entries = &m.entries(table)[slots];
    for entry in entries {
        let old = load(entry);
        if old.is_broken() {
            store(entry, old.restored().with_attributes(attributes));
        }
    }
    m.entries_written(entries);
}
