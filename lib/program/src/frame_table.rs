//! The frame records of all RAM, found by frame number.

use crate::block_record::BlockRecord;
use crate::frame_record::FrameRecord;
use addr::{AddrRange, PAGE_SIZE, Pfn, PhysAddr};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use once_cell::race::OnceBox;

/// The frames of a section: 2 MiB, so that a block has its records in one.
const SECTION_FRAMES: u64 = 512;

/// The records of a section.
type RecordSection = [FrameRecord; SECTION_FRAMES as usize];

/// No memory for the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRecords;

/// The records of the frames of RAM, 4 bytes per frame, as Linux's `struct page`, and of its blocks of 2 MiB.
/// The frame records of a section are allocated when the first of its frames is given to a process, and kept.
#[derive(Debug)]
pub struct FrameTable {
    ranges: Vec<TableRange>,
    /// The number of allocated sections.
    allocated: AtomicUsize,
}

/// The sections of a range of RAM.
#[derive(Debug)]
struct TableRange {
    /// The number of the first section.
    first: u64,
    sections: Box<[OnceBox<RecordSection>]>,
    /// The record of the block that each section is.
    blocks: Box<[BlockRecord]>,
}

impl FrameTable {
    /// A table for `ram`, without records.
    ///
    /// # Errors
    /// [`OutOfRecords`].
    pub fn new(ram: &[AddrRange<PhysAddr>]) -> Result<Self, OutOfRecords> {
        let mut ranges = Vec::new();
        ranges.try_reserve_exact(ram.len()).map_err(|_| OutOfRecords)?;
        for range in ram.iter().filter(|range| !range.is_empty()) {
            let first = range.start().raw() / PAGE_SIZE / SECTION_FRAMES;
            let last = (range.end().raw() - 1) / PAGE_SIZE / SECTION_FRAMES;
            let mut sections = Vec::new();
            let count = (last - first + 1) as usize;
            sections.try_reserve_exact(count).map_err(|_| OutOfRecords)?;
            sections.resize_with(count, OnceBox::new);
            let mut blocks = Vec::new();
            blocks.try_reserve_exact(count).map_err(|_| OutOfRecords)?;
            blocks.resize_with(count, BlockRecord::new);
            let (sections, blocks) = (sections.into_boxed_slice(), blocks.into_boxed_slice());
            ranges.push(TableRange { first, sections, blocks });
        }
        Ok(Self { ranges, allocated: AtomicUsize::new(0) })
    }

    /// Allocates the records of `count` frames from `first` on, unless they exist.
    ///
    /// # Errors
    /// [`OutOfRecords`].
    ///
    /// Panics if a frame is not RAM.
    pub fn ensure(&self, first: Pfn, count: u64) -> Result<(), OutOfRecords> {
        let last = (first.raw() + count.saturating_sub(1)) / SECTION_FRAMES;
        for section in first.raw() / SECTION_FRAMES..=last {
            let Some((_, slot)) = self.section(section) else { panic!("frame {first:?} is not RAM") };
            if slot.get().is_none() {
                let section = new_section()?;
                if slot.set(section).is_ok() {
                    self.allocated.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The record of a frame that was given to a process, and that of its block; `None` for others.
    #[inline]
    pub fn get(&self, frame: Pfn) -> Option<(&BlockRecord, &FrameRecord)> {
        let (block, section) = self.section(frame.raw() / SECTION_FRAMES)?;
        Some((block, &section.get()?[(frame.raw() % SECTION_FRAMES) as usize]))
    }

    /// The records of `count` frames from `first` on, which [`ensure`](Self::ensure) has allocated; a slice
    /// per section, with the record of the block.
    pub fn slices(&self, first: Pfn, count: u64) -> impl Iterator<Item = (&BlockRecord, &[FrameRecord])> {
        let (mut at, end) = (first.raw(), first.raw() + count);
        core::iter::from_fn(move || {
            let (block, section) = self.section(at / SECTION_FRAMES).filter(|_| at < end)?;
            let start = at % SECTION_FRAMES;
            let len = (SECTION_FRAMES - start).min(end - at);
            at += len;
            Some((block, &section.get()?[start as usize..(start + len) as usize]))
        })
    }

    /// The records of the blocks that contain any of `count` frames from `first` on, up to the end of a range
    /// of RAM.
    #[inline]
    pub fn blocks(&self, first: Pfn, count: u64) -> &[BlockRecord] {
        let (start, end) = (first.raw() / SECTION_FRAMES, (first.raw() + count).div_ceil(SECTION_FRAMES));
        let slice = |range: &'_ TableRange| {
            let from = usize::try_from(start.checked_sub(range.first)?).ok()?;
            (from < range.blocks.len()).then_some(from)
        };
        let found = self.ranges.iter().find_map(|range| Some((range, slice(range)?)));
        found.map_or(&[], |(range, from)| {
            &range.blocks[from..(from + (end - start) as usize).min(range.blocks.len())]
        })
    }

    /// The bytes of the allocated records, which are kept.
    pub fn record_bytes(&self) -> usize {
        self.allocated.load(Ordering::Relaxed) * size_of::<RecordSection>()
    }

    #[inline]
    fn section(&self, number: u64) -> Option<(&BlockRecord, &OnceBox<RecordSection>)> {
        self.ranges.iter().find_map(|range| {
            let index = usize::try_from(number.checked_sub(range.first)?).ok()?;
            Some((range.blocks.get(index)?, range.sections.get(index)?))
        })
    }
}

fn new_section() -> Result<Box<RecordSection>, OutOfRecords> {
    let mut records = Vec::new();
    records.try_reserve_exact(SECTION_FRAMES as usize).map_err(|_| OutOfRecords)?;
    records.resize_with(SECTION_FRAMES as usize, FrameRecord::new);
    records.into_boxed_slice().try_into().map_err(|_| OutOfRecords)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table() -> FrameTable {
        let range = |start: u64, end: u64| AddrRange::new(PhysAddr::new(start), PhysAddr::new(end));
        FrameTable::new(&[range(1024 * MIB, 1030 * MIB + PAGE_SIZE), range(8 << 40, (8 << 40) + 2 * MIB)])
            .unwrap()
    }

    fn frame(at: u64) -> Pfn {
        Pfn::new(at / PAGE_SIZE)
    }

    #[test]
    fn records_exist_for_frames_of_processes_only() {
        let table = table();
        assert!(table.get(frame(1024 * MIB)).is_none());
        table.ensure(frame(1026 * MIB - PAGE_SIZE), 2).unwrap();
        for at in [1024 * MIB, 1026 * MIB, 1028 * MIB - PAGE_SIZE] {
            assert!(table.get(frame(at)).is_some(), "{at:#x}");
        }
        for at in [0, 1023 * MIB, 1028 * MIB, 1030 * MIB, 8 << 40] {
            assert!(table.get(frame(at)).is_none(), "{at:#x}");
        }
        table.ensure(frame(1030 * MIB), 1).unwrap();
        table.ensure(frame(8 << 40), SECTION_FRAMES).unwrap();
        assert!(table.get(frame((8 << 40) + MIB)).is_some());
    }

    #[test]
    fn each_frame_has_a_record_of_its_own_that_stays() {
        let table = table();
        table.ensure(frame(1024 * MIB), SECTION_FRAMES).unwrap();
        table.slices(frame(1024 * MIB), SECTION_FRAMES).flat_map(|part| part.1).for_each(FrameRecord::own);
        table.ensure(frame(1024 * MIB), 2 * SECTION_FRAMES).unwrap();
        assert_eq!(table.get(frame(1024 * MIB)).unwrap().1.owners(), 1);
        assert_eq!(table.get(frame(1026 * MIB)).unwrap().1.owners(), 0);
        assert_eq!(table.record_bytes(), 2 * 2048);
    }

    #[test]
    fn slices_cross_sections() {
        let table = table();
        table.ensure(frame(1024 * MIB), 3 * SECTION_FRAMES).unwrap();
        let lengths = |at, count| table.slices(frame(at), count).map(|part| part.1.len()).collect::<Vec<_>>();
        assert_eq!(lengths(1026 * MIB - 3 * PAGE_SIZE, 3 + 512 + 1), [3, 512, 1]);
        assert_eq!(lengths(1024 * MIB + PAGE_SIZE, 1), [1]);
        let last = table.slices(frame(1026 * MIB - PAGE_SIZE), 2).flat_map(|part| part.1).last().unwrap();
        assert!(core::ptr::eq(last, table.get(frame(1026 * MIB)).unwrap().1));
    }

    #[test]
    fn blocks_are_those_of_their_frames() {
        let table = table();
        table.ensure(frame(1026 * MIB), 1).unwrap();
        let block = table.get(frame(1026 * MIB)).unwrap().0;
        for (at, count) in [(1026 * MIB, 1), (1028 * MIB - PAGE_SIZE, 1), (1026 * MIB, 512)] {
            let blocks = table.blocks(frame(at), count);
            assert!(blocks.len() == 1 && core::ptr::eq(&blocks[0], block), "{at:#x}");
        }
        assert_eq!(table.blocks(frame(1026 * MIB - PAGE_SIZE), 514).len(), 3);
        assert_eq!(table.blocks(frame(1030 * MIB), 1024).len(), 1, "beyond the end of RAM");
        assert!(table.blocks(frame(1022 * MIB), 512).is_empty() && table.blocks(frame(0), 1).is_empty());
    }

    #[test]
    #[should_panic(expected = "is not RAM")]
    fn frame_outside_of_ram_has_no_record() {
        let _ = table().ensure(frame(1032 * MIB), 1);
    }
}
