//! Replacement of the frames behind a leaf.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{LAST_LEVEL, size, slot_start};
use crate::table::store;
use crate::{InputAddress, Mapping, PageTable, TableMemory, TableRef};
use addr::{AddrRange, PhysAddr};

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Maps the page or block of `at` to the frames from `to` on, a multiple of its size, with `mapping`,
    /// instead of the frames that it returns, by break-before-make (D8.16.1): those are in no TLB on return.
    /// Allocates nothing, so that copy-on-write cannot fail after the copy. The caller makes the entry
    /// visible to the walker, as after [`PageTable::map`].
    ///
    /// Returns `None`, without a change, if `at` is not mapped, or by a leaf with the contiguous hint, or if
    /// the stage cannot encode the rights.
    pub fn replace_leaf<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        to: PhysAddr,
        mapping: Mapping,
    ) -> Option<AddrRange<PhysAddr>> {
        let offset = self.input.offset(at).filter(|_| F::can_express(mapping.access()))?;
        let found = self.walk(m, offset, LAST_LEVEL);
        if !found.entry.is_valid() || found.entry.is_contiguous() {
            return None;
        }
        let (bytes, old) = (size(found.level), found.entry.output());
        let start = self.input.address(slot_start(offset, found.level, found.slot));
        let set = |m: &M, entry| {
            let slots = &m.entries(TableRef::new(found.table))[found.slot..=found.slot];
            store(&slots[0], entry);
            m.entries_written(slots);
        };
        set(m, found.entry.broken());
        m.invalidate(start.raw(), bytes);
        set(m, Descriptor::leaf(to, found.level, F::attributes::<A>(mapping)));
        Some(AddrRange::new(old, old + bytes))
    }
}
