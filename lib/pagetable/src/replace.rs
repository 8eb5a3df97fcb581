//! Replacement of the frame behind a page.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{LAST_LEVEL, slot_start};
use crate::table::store;
use crate::{InputAddress, Mapping, PageTable, TableMemory, TableRef};
use addr::{PAGE_SIZE, PhysAddr};

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// Maps the page of `at` to the frame `to` with `mapping`, instead of the frame that it returns, by
    /// break-before-make (D8.16.1): that frame is in no TLB on return. Allocates nothing, so that
    /// copy-on-write cannot fail after the copy. The caller makes the entry visible to the walker, as after
    /// [`PageTable::map`].
    ///
    /// Returns `None`, without a change, if `at` is not mapped by a page without the contiguous hint, or if
    /// the stage cannot encode the rights.
    pub fn replace_page<M: TableMemory>(
        &mut self,
        m: &mut M,
        at: A,
        to: PhysAddr,
        mapping: Mapping,
    ) -> Option<PhysAddr> {
        let offset = self.input.offset(at).filter(|_| F::can_express(mapping.access()))?;
        let found = self.walk(m, offset, LAST_LEVEL);
        let is_page = found.level == LAST_LEVEL && found.entry.is_valid() && !found.entry.is_contiguous();
        if !is_page {
            return None;
        }
        let start = self.input.address(slot_start(offset, LAST_LEVEL, found.slot));
        let set = |m: &M, entry| {
            let slots = &m.entries(TableRef::new(found.table))[found.slot..=found.slot];
            store(&slots[0], entry);
            m.entries_written(slots);
        };
        set(m, found.entry.broken());
        m.invalidate(start.raw(), PAGE_SIZE);
        set(m, Descriptor::leaf(to, LAST_LEVEL, F::attributes::<A>(mapping)));
        Some(found.entry.output())
    }
}
