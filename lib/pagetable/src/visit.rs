//! Reading mappings: translation and visits.

use crate::descriptor::{Descriptor, Format};
use crate::geometry::{LAST_LEVEL, index, size, slot_start};
use crate::table::{load, next_used, used_slots, valid_count};
use crate::unmap::BadRange;
use crate::{Access, InputAddress, Mapping, PageTable, TableMemory, TableRef};
use addr::{AddrRange, MemoryType, PhysAddr};
use core::ops::ControlFlow;
use core::sync::atomic::AtomicU64;

/// A mapped page or block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<A> {
    /// The first input address.
    pub at: A,
    /// The first output address.
    pub to: PhysAddr,
    /// The size: 4 KiB, 2 MiB or 1 GiB.
    pub bytes: u64,
    /// The memory type.
    pub memory: MemoryType,
    /// The access rights, as in [`Mapping`].
    pub access: Access,
    /// Whether it has the contiguous hint.
    pub contiguous: bool,
    /// Whether the entry is exactly the encoding of a [`Mapping`] with this memory type and these rights: it
    /// gives no other access.
    pub regular: bool,
}

/// Leaves of one table at consecutive addresses, with consecutive outputs and equal attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappedRun<A> {
    /// The first input address.
    pub at: A,
    /// The first output address.
    pub to: PhysAddr,
    /// The size of all leaves.
    pub bytes: u64,
    level: u8,
    /// The access rights.
    pub access: Access,
}

impl<A: InputAddress> MappedRun<A> {
    /// The size of each leaf.
    pub fn leaf_bytes(&self) -> u64 {
        size(self.level)
    }
    /// The input addresses.
    pub fn input(&self) -> AddrRange<A> {
        AddrRange::new(self.at, A::new(self.at.raw() + self.bytes))
    }
    /// The output addresses.
    pub fn output(&self) -> AddrRange<PhysAddr> {
        AddrRange::new(self.to, self.to + self.bytes)
    }
}

impl<A: InputAddress> Leaf<A> {
    /// The leaf of a valid `entry` of `level` that translates from `at` on.
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
    /// The output address of `at`, an address in this leaf.
    pub fn translate(&self, at: A) -> PhysAddr {
        self.to + (at.raw() - self.at.raw())
    }
    /// The output addresses.
    pub fn output(&self) -> AddrRange<PhysAddr> {
        AddrRange::new(self.to, self.to + self.bytes)
    }
}

impl<F: Format, A: InputAddress> PageTable<F, A> {
    /// The leaf that translates `at`, as a walker finds it once all stores are visible.
    pub fn translate<M: TableMemory>(&self, m: &M, at: A) -> Option<Leaf<A>> {
        let offset = self.input.offset(at)?;
        let found = self.walk(m, offset, LAST_LEVEL);
        let start = slot_start(offset, found.level, found.slot);
        found.entry.is_valid().then(|| self.leaf(found.entry, found.level, start))
    }

    /// Visits every leaf that overlaps `range`, lowest first. A range outside of the input address space or
    /// not page-aligned has none.
    pub fn leaves<M: TableMemory>(&self, m: &M, range: AddrRange<A>, mut visit: impl FnMut(Leaf<A>)) {
        self.leaves_until(m, range, |leaf| {
            visit(leaf);
            ControlFlow::Continue(())
        });
    }

    /// The same, until `visit` breaks.
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

    /// Visits the leaves that overlap `range` as runs, lowest first, until `visit` breaks. A run of pages
    /// takes a few instructions per page, a third of those for its leaves.
    pub fn runs_until<M: TableMemory>(
        &self,
        m: &M,
        range: AddrRange<A>,
        mut visit: impl FnMut(MappedRun<A>) -> ControlFlow<()>,
    ) {
        match self.offsets(range) {
            Ok((first, end)) if first < end => {
                let (table, level) = self.common_table(m, first, end - 1);
                let _ = self.visit_runs(m, table, level, (first, end - 1), &mut visit);
            }
            Ok(_) | Err(BadRange) => {}
        }
    }

    /// Visits every leaf, lowest first.
    pub fn all_leaves<M: TableMemory>(&self, m: &M, mut visit: impl FnMut(Leaf<A>)) {
        let mut all = |leaf| {
            visit(leaf);
            ControlFlow::Continue(())
        };
        let _ = self.visit(m, self.root, self.start_level, (0, self.input.len() - 1), &mut all);
    }

    /// Visits every table of the tree, the root first.
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
        let entries = m.entries(TableRef::new(table));
        for slot in used_slots(entries, index(first, level)..index(last, level) + 1) {
            let entry = load(&entries[slot]);
            let start = slot_start(first, level, slot);
            if entry.is_table(level) && valid_count(m, entry.output()) == 0 {
                // An empty table: its entries are not read.
            } else if entry.is_table(level) {
                let part = (first.max(start), last.min(start + size(level) - 1));
                self.visit(m, entry.output(), level + 1, part, visit)?;
            } else if entry.is_valid() {
                visit(self.leaf(entry, level, start))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn visit_runs<M: TableMemory>(
        &self,
        m: &M,
        table: PhysAddr,
        level: u8,
        (first, last): (u64, u64),
        visit: &mut impl FnMut(MappedRun<A>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let entries = m.entries(TableRef::new(table));
        let (mut slot, end) = (index(first, level), index(last, level) + 1);
        while let Some(used) = next_used(entries, slot..end) {
            let entry = load(&entries[used]);
            let start = slot_start(first, level, used);
            slot = used + 1;
            if entry.is_table(level) {
                let part = (first.max(start), last.min(start + size(level) - 1));
                self.visit_runs(m, entry.output(), level + 1, part, visit)?;
            } else if entry.is_valid() {
                slot += successors(&entries[slot..end], entry, level);
                let bytes = (slot - used) as u64 * size(level);
                let (at, access) = (self.input.address(start), F::access::<A>(entry));
                visit(MappedRun { at, to: entry.output(), bytes, level, access })?;
            }
        }
        ControlFlow::Continue(())
    }

    fn leaf(&self, entry: Descriptor, level: u8, start: u64) -> Leaf<A> {
        Leaf::of::<F>(entry, level, self.input.address(start))
    }
}

/// The number of entries at the start of `entries` that continue the leaf of `level` before them.
fn successors(entries: &[AtomicU64], mut leaf: Descriptor, level: u8) -> usize {
    let continues = |entry: &&AtomicU64| {
        leaf = leaf.advanced(size(level));
        load(entry) == leaf
    };
    entries.iter().take_while(continues).count()
}

/// Visits `table` and all tables below it.
fn tables_from<M: TableMemory>(m: &M, table: PhysAddr, level: u8, show: &mut impl FnMut(PhysAddr)) {
    show(table);
    if level == LAST_LEVEL {
        return;
    }
    for entry in m.entries(TableRef::new(table)).iter().map(load).filter(|entry| entry.is_table(level)) {
        tables_from(m, entry.output(), level + 1, show);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stage1;
    use crate::descriptor::Stage2;
    use addr::{Iova, KernelVa, UserVa};

    /// Whether a leaf of `mapping` with the bits `flipped` inverted is regular.
    fn regular<F: Format, A: InputAddress>(mapping: Mapping, flipped: u64) -> bool {
        let bits = F::attributes::<A>(mapping) ^ flipped;
        let entry = Descriptor::leaf(PhysAddr::new(0x4000_0000), LAST_LEVEL, bits);
        Leaf::of::<F>(entry, LAST_LEVEL, A::new(0)).regular
            && Leaf::of::<F>(entry.contiguous(), LAST_LEVEL, A::new(0)).regular
    }

    #[test]
    fn only_exact_encodings_of_mappings_are_regular() {
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
            assert!(!regular::<Stage1, KernelVa>(write_back, 1 << bit), "bit {bit} of a kernel leaf");
        }
        // AP[1] of a user leaf is an access right (unprivileged or not), so it is left out. The kernel never
        // executes it (PXN).
        for bit in [9, 10, 11, 53, 54] {
            assert!(!regular::<Stage1, UserVa>(write_back, 1 << bit), "bit {bit} of a user leaf");
        }
    }
}
