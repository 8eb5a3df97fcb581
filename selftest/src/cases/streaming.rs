//! Memory that exists already, lent to the device and taken back.

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
    let lent = stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    let ranges = ResourceSnapshot::now();
    read_in(edu, lent.iova() + 4088, 16)?;
    write_out(edu, lent.iova() + 4, 16)?;
    let mut mine = lent.sync_for_cpu();
    let seen = mine.bytes().map(|bytes| bytes[3..21].to_vec());
    check!(seen.as_deref() == Some(b"\x000123456789abcdef\x00"), "the device wrote {seen:x?}");
    check!(ranges != before, "mapping took nothing");
    drop(mine);
    before.settle("afterwards")?;
    pass!("5120 bytes lent, 16 of them copied from a page border to offset 4")
}

fn device_accesses_scattered_pages_as_one_range() -> Outcome {
    const PIECES: usize = 16;
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        let pages = Pages::scattered(PAGE_SIZE).map_err(|error| error.to_string())?;
        let error = stream::map(edu.device(), pages, Direction::ToDevice).err().map(|refused| refused.error);
        check!(
            error.is_none_or(|error| matches!(error, DmaError::PastMask { .. } | DmaError::Scattered { .. })),
            "{error:?}"
        );
        skip!("no IOMMU: {error:?}");
    }
    let fragmented = crate::fixture::Fragmented::new(memory::Reach::LOW, 64);
    let pages = Pages::scattered(PIECES as u64 * PAGE_SIZE);
    drop(fragmented);
    let mut pages = pages.map_err(|error| error.to_string())?;
    for index in 0..PIECES {
        pages.segment_bytes(index).unwrap_or_default().fill(index as u8 + 1);
    }
    let lent = stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    check!(lent.len() == PIECES * PAGE_SIZE as usize, "{} bytes", lent.len());
    // Half of piece 4 and half of piece 5 go to the border of the last two.
    read_in(edu, lent.iova() + (5 * PAGE_SIZE - 50), 100)?;
    write_out(edu, lent.iova() + (15 * PAGE_SIZE - 30), 100)?;
    let memory = lent.unmap().map_err(|error| error.to_string())?;
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
    check!(found == [15, 5, 5, 5] && rest == [5, 6, 6, 16], "around the border: {found:?} {rest:?}");
    pass!("{PIECES} scattered pages at one range of {} bytes", PIECES * PAGE_SIZE as usize)
}

fn ownership_alternates_between_cpu_and_device() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.reaches_memory() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let pages = Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    let mut lent =
        stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
    for round in 0..4u8 {
        let mut mine = lent.sync_for_cpu();
        mine.bytes().unwrap_or_default()[..4].fill(round + 10);
        lent = mine.sync_for_device();
        read_in(edu, lent.iova(), 4)?;
        write_out(edu, lent.iova() + 100 + 4 * u64::from(round), 4)?;
    }
    let mut mine = lent.sync_for_cpu();
    let seen = mine.bytes().map(|bytes| bytes[100..116].to_vec()).unwrap_or_default();
    check!(seen == [10, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13], "{seen:?}");
    pass!("four rounds between CPU and device")
}

/// More than one table of small mappings has room for, of different lengths, freed out of order.
fn many_small_mappings_do_not_overlap() -> Outcome {
    const PIECES: u64 = 700;
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let before = ResourceSnapshot::now();
    let mut all = Vec::new();
    for piece in 0..PIECES {
        let mut pages = Pages::new((1 + piece % 3) * PAGE_SIZE).map_err(|error| error.to_string())?;
        pages.segment_bytes(0).unwrap_or_default()[..8].copy_from_slice(&piece.to_le_bytes());
        all.push(
            stream::map(edu.device(), pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?,
        );
    }
    let mut starts: Vec<_> = all.iter().map(|lent| (lent.iova(), lent.len() as u64)).collect();
    starts.sort_unstable();
    let apart = starts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
    check!(apart, "two have the same device addresses");
    let step = 97 * (10 / debug::scaled(10)) as usize;
    for lent in all.iter().step_by(step) {
        read_in(edu, lent.iova(), 8)?;
        write_out(edu, lent.iova() + 8, 8)?;
    }
    for (piece, lent) in all.into_iter().enumerate().rev() {
        let mut mine = lent.sync_for_cpu();
        let seen = mine.bytes().map(|bytes| [bytes[..8].to_vec(), bytes[8..16].to_vec()]).unwrap_or_default();
        let word = (piece as u64).to_le_bytes();
        let copy = if piece % step == 0 { word } else { [0; 8] };
        check!(seen[0] == word && seen[1] == copy, "piece {piece} is {seen:x?}");
    }
    before.settle("afterwards")?;
    pass!("{PIECES} pieces of one to three pages")
}
