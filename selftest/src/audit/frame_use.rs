//! Frames that only the linear map may map: they are free, page tables or in the heap, and have one use each.

use super::mappings::MappedRange;
use super::{Finding, Owner};
use addr::{AddrRange, Chunk, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::fmt;

/// The use of a frame that only the linear map may map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FrameUse {
    Free,
    /// A page table of the kernel, a device or a program.
    PageTable,
    Heap,
}

impl fmt::Display for FrameUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free",
            Self::PageTable => "a page table",
            Self::Heap => "heap memory",
        })
    }
}

/// The frames collected so far, with their uses.
#[derive(Default)]
pub(super) struct FrameUses(Vec<(AddrRange<PhysAddr>, FrameUse)>);

/// Disjoint ranges of frames, in the order of their addresses.
#[derive(Debug)]
pub(super) struct SortedFrameUses(Vec<(AddrRange<PhysAddr>, FrameUse)>);

impl FrameUses {
    /// Adds a page table.
    pub fn add_table(&mut self, table: PhysAddr) {
        self.0.push((AddrRange::new(table, table + PAGE_SIZE), FrameUse::PageTable));
    }

    /// Adds a chunk.
    pub fn add(&mut self, chunk: Chunk, usage: FrameUse) {
        self.0.push((chunk.range(), usage));
    }

    /// Sorts the list and checks that no frame is in it twice.
    ///
    /// # Errors
    /// [`Finding::DoubleUse`].
    pub fn sorted(self) -> Result<SortedFrameUses, Finding> {
        let Self(mut all) = self;
        all.sort_unstable_by_key(|(range, usage)| (range.start(), *usage));
        let overlap = all.windows(2).find_map(|pair| {
            let [(range, first), (next, second)] = [pair[0], pair[1]];
            let frames = range.intersection(&next)?;
            Some(Finding::DoubleUse { frames, uses: [first, second] })
        });
        overlap.map_or(Ok(SortedFrameUses(all)), Err)
    }
}

impl SortedFrameUses {
    /// Returns the number of bytes with this use.
    pub fn bytes(&self, usage: FrameUse) -> u64 {
        self.0.iter().filter(|(_, other)| *other == usage).map(|(range, _)| range.len()).sum()
    }

    /// Returns the first of these frames with a mapping outside of the linear map.
    pub fn first_mapped(&self, mappings: &[MappedRange]) -> Option<Finding> {
        mappings.iter().filter(|mapped| mapped.owner != Owner::Linear).find_map(|mapped| {
            let first = self.0.partition_point(|(range, _)| range.end() <= mapped.frames.start());
            let &(range, usage) = self.0.get(first)?;
            let frames = range.intersection(&mapped.frames)?;
            Some(Finding::UnexpectedMapping { frames, usage, owner: mapped.owner })
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

    fn sorted(chunks: &[(Chunk, FrameUse)]) -> Result<SortedFrameUses, Finding> {
        let mut uses = FrameUses::default();
        chunks.iter().for_each(|&(chunk, usage)| uses.add(chunk, usage));
        uses.sorted()
    }

    #[test]
    fn frame_with_two_uses_is_found() {
        use FrameUse::{Free, Heap, PageTable};
        for other in [Free, PageTable, Heap] {
            let found = sorted(&[(chunk(8, 2), Free), (chunk(2, 1), Heap), (chunk(10, 0), other)]);
            assert_eq!(found.unwrap_err(), Finding::DoubleUse { frames: range(10, 11), uses: [Free, other] });
        }
    }

    #[test]
    fn page_tables_count_as_one_frame_each() {
        let mut uses = FrameUses::default();
        uses.add_table(PhysAddr::new(7 << 12));
        uses.add(chunk(8, 2), FrameUse::Free);
        uses.add_table(PhysAddr::new(6 << 12));
        assert_eq!(uses.sorted().unwrap().bytes(FrameUse::PageTable), 2 << 12);
    }

    #[test]
    fn mapping_of_free_or_kernel_memory_is_found_at_any_offset() {
        let uses = sorted(&[(chunk(8, 2), FrameUse::Free), (chunk(2, 1), FrameUse::Heap)]).unwrap();
        let found = |start, end, owner| {
            let memory = MemoryType::WriteBack;
            uses.first_mapped(&[MappedRange { frames: range(start, end), memory, owner }])
        };
        let owner = Owner::Domain(3);
        assert_eq!(found(4, 8, owner), None);
        assert_eq!(found(12, 99, owner), None);
        let heap = Finding::UnexpectedMapping { frames: range(3, 4), usage: FrameUse::Heap, owner };
        assert_eq!(found(3, 4, owner), Some(heap));
        let free = Finding::UnexpectedMapping { frames: range(8, 12), usage: FrameUse::Free, owner };
        assert_eq!(found(4, 99, owner), Some(free));
        assert_eq!(found(0, 99, Owner::Linear), None);
    }
}
