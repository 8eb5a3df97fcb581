//! Looking at what is mapped.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{GROUP_LEN, LAST_LEVEL, index, size, slot_start};
use crate::table::load;
use crate::unmap::BadRange;
use crate::{Access, InputAddress, Mapping, PageTable, TableMemory};
use addr::{AddrRange, MemoryType, PhysAddr};
use core::ops::ControlFlow;

/// One page or block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<A> {
    /// The first input address.
    pub at: A,
    /// What it translates to.
    pub to: PhysAddr,
    /// The size: 4 KiB, 2 MiB or 1 GiB.
    pub bytes: u64,
    /// The memory type.
    pub memory: MemoryType,
    /// The rights, as asked for in [`Mapping`].
    pub access: Access,
    /// Whether it is one of an aligned group of sixteen that may share a TLB entry.
    pub contiguous: bool,
    /// Whether the entry is what a [`Mapping`] with this memory type and these rights is written as: nobody else may do
    /// anything through it, either.
    pub regular: bool,
}

impl<A: InputAddress> Leaf<A> {
    /// What a valid `entry` of `level` says, which translates from `at` on.
    pub(crate) fn of<F: Format>(entry: Descriptor, level: u8, at: A) -> Self {
        let (memory, access) = (F::memory(entry), F::access::<A>(entry));
        let is_written_so = |mapping| F::attributes::<A>(mapping) == entry.without_contiguous().attributes();
        Self {
            at,
            to: entry.output(),
            bytes: size(level),
            memory,
            access,
            contiguous: entry.is_contiguous(),
            regular: Mapping::new(memory, access).is_ok_and(is_written_so),
        }
    }
    /// What `at`, an address in this leaf, translates to.
    pub fn translate(&self, at: A) -> PhysAddr {
        self.to + (at.raw() - self.at.raw())
    }
    /// Its output addresses.
    pub fn output(&self) -> AddrRange<PhysAddr> {
        AddrRange::new(self.to, self.to + self.bytes)
    }
    /// The bytes that may share one TLB entry with it: the group's, or its own.
    pub fn tlb_span(&self) -> u64 {
        if self.contiguous { self.bytes * GROUP_LEN as u64 } else { self.bytes }
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// The leaf that translates `at`, if one does: what a walker finds once it sees all stores.
    pub fn translate<M: TableMemory>(&self, m: &M, at: A) -> Option<Leaf<A>> {
        let offset = self.input.offset(at)?;
        let found = self.walk(m, offset, LAST_LEVEL);
        let start = slot_start(offset, found.level, found.slot);
        found.entry.is_valid().then(|| self.leaf(found.entry, found.level, start))
    }

    /// Shows every leaf that has an address in `range`, whole, from the lowest up. A range that leaves the input
    /// address space or is of broken pages has none.
    pub fn leaves<M: TableMemory>(&self, m: &M, range: AddrRange<A>, mut visit: impl FnMut(Leaf<A>)) {
        self.leaves_until(m, range, |leaf| {
            visit(leaf);
            ControlFlow::Continue(())
        });
    }

    /// The same, until `visit` has seen enough.
    pub fn leaves_until<M: TableMemory>(
        &self,
        m: &M,
        range: AddrRange<A>,
        mut visit: impl FnMut(Leaf<A>) -> ControlFlow<()>,
    ) {
        match self.offsets(range) {
            Ok((first, end)) if first < end => {
                let _ = self.visit(m, self.root, self.start_level, (first, end - 1), &mut visit);
            }
            Ok(_) | Err(BadRange) => {}
        }
    }

    /// Shows every leaf there is, from the lowest up.
    pub fn all_leaves<M: TableMemory>(&self, m: &M, mut visit: impl FnMut(Leaf<A>)) {
        let mut all = |leaf| {
            visit(leaf);
            ControlFlow::Continue(())
        };
        let _ = self.visit(m, self.root, self.start_level, (0, self.input.len() - 1), &mut all);
    }

    /// Shows every table that a walk can come to, the root first.
    pub fn each_table<M: TableMemory>(&self, m: &M, mut show: impl FnMut(PhysAddr)) {
        tables_from(m, self.root, self.start_level, &mut show);
    }

    fn visit<M: TableMemory>(
        &self,
        m: &M,
        table: PhysAddr,
        level: u8,
        (first, last): (u64, u64),
        visit: &mut impl FnMut(Leaf<A>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for slot in index(first, level)..=index(last, level) {
            let entry = load(&m.entries(table)[slot]);
            let start = slot_start(first, level, slot);
            if entry.is_table(level) {
                let part = (first.max(start), last.min(start + size(level) - 1));
                self.visit(m, entry.output(), level + 1, part, visit)?;
            } else if entry.is_valid() {
                visit(self.leaf(entry, level, start))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn leaf(&self, entry: Descriptor, level: u8, start: u64) -> Leaf<A> {
        Leaf::of::<F>(entry, level, self.input.address(start))
    }
}

/// Shows `table` and all tables below it.
fn tables_from<M: TableMemory>(m: &M, table: PhysAddr, level: u8, show: &mut impl FnMut(PhysAddr)) {
    show(table);
    for entry in m.entries(table).iter().map(load).filter(|entry| entry.is_table(level)) {
        tables_from(m, entry.output(), level + 1, show);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stage1;
    use crate::descriptor::Stage2;
    use addr::{Iova, KernelVa, UserVa};

    /// Whether a leaf with the bits of `mapping`, some of them flipped, is regular.
    fn regular<F: Format, A: InputAddress>(mapping: Mapping, flipped: u64) -> bool {
        let bits = F::attributes::<A>(mapping) ^ flipped;
        let entry = Descriptor::leaf(PhysAddr::new(0x4000_0000), LAST_LEVEL, bits);
        Leaf::of::<F>(entry, LAST_LEVEL, A::new(0)).regular
            && Leaf::of::<F>(entry.contiguous(), LAST_LEVEL, A::new(0)).regular
    }

    #[test]
    fn what_mappings_are_written_as_is_regular_and_no_bit_more_or_less() {
        let write_back = Mapping::read_write(MemoryType::WriteBack);
        let mappings = [write_back, Mapping::code(), Mapping::read_only(MemoryType::NonCacheable)];
        for mapping in mappings {
            assert!(regular::<Stage1, KernelVa>(mapping, 0), "{mapping:?}");
            assert!(
                regular::<Stage1, UserVa>(mapping, 0) && regular::<Stage1, UserVa>(mapping.privileged(), 0)
            );
            assert!(regular::<Stage1, Iova>(mapping, 0) && regular::<Stage2, Iova>(mapping, 0));
        }
        // AP[1], SH[1], AF, nG, PXN, UXN.
        for bit in [6, 9, 10, 11, 53, 54] {
            assert!(!regular::<Stage1, KernelVa>(write_back, 1 << bit), "bit {bit} of the kernel's");
        }
        // Of a program's AP[1] says whether the program may: that is a right. The kernel never executes it.
        for bit in [9, 10, 11, 53, 54] {
            assert!(!regular::<Stage1, UserVa>(write_back, 1 << bit), "bit {bit} of a program's");
        }
    }
}
