//! Streaming mappings: existing memory that the device reads and writes.

use super::device::{edu, read_in, write_out};
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::{check, pass, skip};
use addr::PAGE_SIZE;
use alloc::string::ToString;
use alloc::vec::Vec;
use dma_api::{Direction, DmaError};
use kernel::debug;
use kernel::dma::stream::{self, Pages};

pub const TESTS: &[Test] = &[
    Test {
        name: "streaming.device_reads_and_writes_contiguous_memory",
        run: device_reads_and_writes_contiguous_memory,
    },
    Test {
        name: "streaming.device_accesses_scattered_pages_as_one_range",
        run: device_accesses_scattered_pages_as_one_range,
    },
    Test {
        name: "streaming.ownership_alternates_between_cpu_and_device",
        run: ownership_alternates_between_cpu_and_device,
    },
    Test { name: "streaming.many_small_mappings_do_not_overlap", run: many_small_mappings_do_not_overlap },
];

fn device_reads_and_writes_contiguous_memory() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.reaches_memory() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let before = ResourceSnapshot::now();
    let mut pages = Pages::new(5120).map_err(|error| error.to_string())?;
    pages.segment_bytes(0).unwrap_or_default()[4088..4104].copy_from_slice(b"0123456789abcdef");
    let mapping =
        stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    let ranges = ResourceSnapshot::now();
    read_in(edu, mapping.iova() + 4088, 16)?;
    write_out(edu, mapping.iova() + 4, 16)?;
    let mut owned = mapping.sync_for_cpu();
    let seen = owned.bytes().map(|bytes| bytes[3..21].to_vec());
    check!(seen.as_deref() == Some(b"\x000123456789abcdef\x00"), "the device wrote {seen:x?}");
    check!(ranges != before, "the mapping allocated no resources");
    drop(owned);
    before.settle("after unmap")?;
    pass!("5120 bytes mapped, 16 of them copied from a page boundary to offset 4")
}

fn device_accesses_scattered_pages_as_one_range() -> Outcome {
    const PAGES: usize = 16;
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        let pages = Pages::scattered(PAGE_SIZE).map_err(|error| error.to_string())?;
        let Err(refused) = stream::map(edu.device(), pages, Direction::ToDevice) else { skip!("no IOMMU") };
        let error = refused.error;
        check!(matches!(error, DmaError::PastMask { .. } | DmaError::Scattered { .. }), "{error}");
        skip!("no IOMMU: {error}");
    }
    let fragmented = crate::fixture::Fragmented::new(memory::Reach::LOW, 64);
    let pages = Pages::scattered(PAGES as u64 * PAGE_SIZE);
    drop(fragmented);
    let mut pages = pages.map_err(|error| error.to_string())?;
    for index in 0..PAGES {
        pages.segment_bytes(index).unwrap_or_default().fill(index as u8 + 1);
    }
    let mapping =
        stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    check!(mapping.len() == PAGES * PAGE_SIZE as usize, "{} bytes", mapping.len());
    // The end of page 4 and the start of page 5 are copied across the boundary of pages 14 and 15.
    read_in(edu, mapping.iova() + (5 * PAGE_SIZE - 50), 100)?;
    write_out(edu, mapping.iova() + (15 * PAGE_SIZE - 30), 100)?;
    let memory = mapping.unmap().map_err(|error| error.to_string())?;
    let segments = memory.segments().to_vec();
    let byte = |index: usize, at: u64| {
        let mut seen = 0;
        super::device::with_page(segments[index].start, addr::MemoryType::WriteBack, |page| {
            seen = page[at as usize]
        });
        seen
    };
    let found = [byte(14, PAGE_SIZE - 31), byte(14, PAGE_SIZE - 30), byte(14, PAGE_SIZE - 1), byte(15, 0)];
    let rest = [byte(15, 19), byte(15, 20), byte(15, 69), byte(15, 70)];
    drop(memory);
    check!(found == [15, 5, 5, 5] && rest == [5, 6, 6, 16], "around the boundary: {found:?} {rest:?}");
    pass!("{PAGES} scattered pages as one range of {} bytes", PAGES * PAGE_SIZE as usize)
}

fn ownership_alternates_between_cpu_and_device() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.reaches_memory() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let pages = Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    let mut mapping =
        stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    for round in 0..4u8 {
        let mut owned = mapping.sync_for_cpu();
        owned.bytes().unwrap_or_default()[..4].fill(round + 10);
        mapping = owned.sync_for_device();
        read_in(edu, mapping.iova(), 4)?;
        write_out(edu, mapping.iova() + 100 + 4 * u64::from(round), 4)?;
    }
    let mut owned = mapping.sync_for_cpu();
    let seen = owned.bytes().map(|bytes| bytes[100..116].to_vec()).unwrap_or_default();
    check!(seen == [10, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13], "{seen:?}");
    pass!("four transfers of ownership")
}

/// More mappings than one table of small mappings holds, of different lengths, unmapped in reverse order.
fn many_small_mappings_do_not_overlap() -> Outcome {
    const MAPPINGS: u64 = 700;
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let before = ResourceSnapshot::now();
    let mut all = Vec::new();
    for number in 0..MAPPINGS {
        let mut pages = Pages::new((1 + number % 3) * PAGE_SIZE).map_err(|error| error.to_string())?;
        pages.segment_bytes(0).unwrap_or_default()[..8].copy_from_slice(&number.to_le_bytes());
        all.push(
            stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?,
        );
    }
    let mut starts: Vec<_> = all.iter().map(|mapping| (mapping.iova(), mapping.len() as u64)).collect();
    starts.sort_unstable();
    let apart = starts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
    check!(apart, "two mappings overlap");
    let step = 97 * (10 / debug::scaled(10)) as usize;
    for mapping in all.iter().step_by(step) {
        read_in(edu, mapping.iova(), 8)?;
        write_out(edu, mapping.iova() + 8, 8)?;
    }
    for (number, mapping) in all.into_iter().enumerate().rev() {
        let mut owned = mapping.sync_for_cpu();
        let seen =
            owned.bytes().map(|bytes| [bytes[..8].to_vec(), bytes[8..16].to_vec()]).unwrap_or_default();
        let word = (number as u64).to_le_bytes();
        let copy = if number % step == 0 { word } else { [0; 8] };
        check!(seen[0] == word && seen[1] == copy, "mapping {number} has {seen:x?}");
    }
    before.settle("after unmap")?;
    pass!("{MAPPINGS} mappings of one to three pages")
}
