//! Memory that is nobody's, or that the kernel has for itself: it has one holder, and nobody else reaches it.

use super::mapped::Mapped;
use super::{Finding, Owner};
use addr::{AddrRange, Chunk, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::fmt;

/// Who has memory that only the kernel's view of low memory may show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// Nobody: it is free.
    Nobody,
    /// A page table, of the kernel's, of a device's or of a program's.
    Table,
    /// The kernel's heap.
    Heap,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "free",
            Self::Table => "a page table",
            Self::Heap => "the heap's",
        })
    }
}

/// Such memory, as far as it has been shown.
#[derive(Default)]
pub(super) struct Shown(Vec<(AddrRange<PhysAddr>, Holder)>);

/// All such memory, by address.
#[derive(Debug)]
pub(super) struct Held(Vec<(AddrRange<PhysAddr>, Holder)>);

impl Shown {
    /// Notes a page table.
    pub fn add_table(&mut self, table: PhysAddr) {
        self.0.push((AddrRange::new(table, table + PAGE_SIZE), Holder::Table));
    }

    /// Notes what `holder` has.
    pub fn add(&mut self, chunk: Chunk, holder: Holder) {
        self.0.push((chunk.range(), holder));
    }

    /// Sorts the list.
    ///
    /// # Errors
    /// [`Finding::TwoHolders`].
    pub fn sorted(self) -> Result<Held, Finding> {
        let Self(mut all) = self;
        all.sort_unstable_by_key(|(range, holder)| (range.start(), *holder));
        let both = all.windows(2).find_map(|pair| {
            let [(range, one), (next, other)] = [pair[0], pair[1]];
            let frames = range.intersection(&next)?;
            Some(Finding::TwoHolders { frames, holders: [one, other] })
        });
        both.map_or(Ok(Held(all)), Err)
    }
}

impl Held {
    /// Bytes that `holder` has.
    pub fn bytes(&self, holder: Holder) -> u64 {
        self.0.iter().filter(|(_, has)| *has == holder).map(|(range, _)| range.len()).sum()
    }

    /// The first frames in it that one of these mappings reaches.
    pub fn first_mapped(&self, mappings: &[Mapped]) -> Option<Finding> {
        mappings.iter().filter(|mapped| mapped.owner != Owner::Linear).find_map(|mapped| {
            let first = self.0.partition_point(|(held, _)| held.end() <= mapped.to.start());
            let &(held, holder) = self.0.get(first)?;
            let frames = held.intersection(&mapped.to)?;
            Some(Finding::Held { frames, holder, owner: mapped.owner })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{MemoryType, Order, Pfn};

    fn chunk(first: u64, log2: u8) -> Chunk {
        Chunk::new(Pfn::new(first), Order::new(log2).unwrap()).unwrap()
    }

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start << 12), PhysAddr::new(end << 12))
    }

    fn sorted(chunks: &[(Chunk, Holder)]) -> Result<Held, Finding> {
        let mut shown = Shown::default();
        chunks.iter().for_each(|&(chunk, holder)| shown.add(chunk, holder));
        shown.sorted()
    }

    #[test]
    fn a_frame_that_two_have_is_found() {
        use Holder::{Heap, Nobody, Table};
        for other in [Nobody, Table, Heap] {
            let found = sorted(&[(chunk(8, 2), Nobody), (chunk(2, 1), Heap), (chunk(10, 0), other)]);
            assert_eq!(
                found.unwrap_err(),
                Finding::TwoHolders { frames: range(10, 11), holders: [Nobody, other] }
            );
        }
    }

    #[test]
    fn a_table_is_a_frame() {
        let mut shown = Shown::default();
        shown.add_table(PhysAddr::new(7 << 12));
        shown.add(chunk(8, 2), Holder::Nobody);
        shown.add_table(PhysAddr::new(6 << 12));
        assert_eq!(shown.sorted().unwrap().bytes(Holder::Table), 2 << 12);
    }

    #[test]
    fn a_mapping_of_such_memory_is_found_wherever_it_lies() {
        let held = sorted(&[(chunk(8, 2), Holder::Nobody), (chunk(2, 1), Holder::Heap)]).unwrap();
        let found = |start, end, owner| {
            let memory = MemoryType::WriteBack;
            held.first_mapped(&[Mapped { to: range(start, end), memory, owner }])
        };
        let owner = Owner::Domain(3);
        assert_eq!(found(4, 8, owner), None);
        assert_eq!(found(12, 99, owner), None);
        let heap = Finding::Held { frames: range(3, 4), holder: Holder::Heap, owner };
        assert_eq!(found(3, 4, owner), Some(heap));
        let free = Finding::Held { frames: range(8, 12), holder: Holder::Nobody, owner };
        assert_eq!(found(4, 99, owner), Some(free));
        assert_eq!(found(0, 99, Owner::Linear), None);
    }
}
