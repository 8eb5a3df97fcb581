//! Self-tests of the debug checks: each provokes one violation and expects its report.

use super::device::{edu, frame_at, peek, poke, read_in, with_page, write_out};
use super::{Outcome, Test};
use crate::debug::{guards, poison};
use crate::{check, pass, skip};
use addr::{MemoryType, Order, PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use dma_api::{Attrs, Direction};
use kernel::debug::LastOwner;
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Attachment};
use kernel::memory::zones;
use memory::Reach;

pub const TESTS: &[Test] = &[
    Test { name: "debug.write_past_a_buffer_is_attributed_to_it", run: write_past_a_buffer },
    Test {
        name: "debug.read_before_a_streaming_mapping_is_attributed_to_it",
        run: read_before_a_streaming_mapping,
    },
    Test { name: "debug.write_to_an_unmapped_buffer_is_attributed_to_it", run: write_to_an_unmapped_buffer },
    Test { name: "debug.canary_overwritten_by_a_device_is_reported", run: canary_overwritten_by_a_device },
    Test {
        name: "debug.canary_overwritten_by_the_kernel_is_reported",
        run: canary_overwritten_by_the_kernel,
    },
    Test { name: "debug.write_after_free_is_reported", run: write_after_free },
    Test { name: "debug.device_write_after_free_is_reported", run: device_write_after_free },
];

/// Clears earlier findings, and returns the edu behind an SMMU.
fn start() -> Option<&'static DmaEngineDevice> {
    _ = (guards::take_near_miss(), guards::take_overrun(), poison::take_finding());
    edu().filter(|edu| edu.device().smmu().is_some())
}

fn new_buffer(edu: &DmaEngineDevice, len: u64) -> Result<Attachment, String> {
    dma::alloc(edu.device(), len, Attrs::NO_KERNEL_MAPPING).map_err(|error| error.to_string())
}

/// Passes if the report of the finding is `wanted`.
fn expect_report(found: Option<impl Display>, wanted: &str) -> Outcome {
    let report = found.map_or("nothing".to_string(), |found| found.to_string());
    check!(report == wanted, "{report:?}, not {wanted:?}");
    pass!("{report}")
}

/// Drains the event queue and returns the explained fault.
fn near_miss(edu: &DmaEngineDevice) -> Option<guards::NearMiss> {
    edu.device().smmu()?.service();
    guards::take_near_miss()
}

fn write_past_a_buffer() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let (buffer, next) = (new_buffer(edu, PAGE_SIZE)?, new_buffer(edu, PAGE_SIZE)?);
    // The second buffer may also be below: each CPU allocates from its own part of the IOVA space.
    check!(next.range().start() != buffer.range().end(), "no guard page between {buffer:?} and {next:?}");
    write_out(edu, buffer.range().end() + 12, 4)?;
    let (name, tag) = (edu.device().name(), buffer.buffer().tag());
    expect_report(near_miss(edu), &format!("guard: {name}: write 12 past the end of {tag}"))
}

fn read_before_a_streaming_mapping() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let pages = Pages::new(32 * PAGE_SIZE).map_err(|error| error.to_string())?;
    let mapping = stream::map(edu.device(), pages, Direction::ToDevice).map_err(|r| r.error.to_string())?;
    read_in(edu, addr::Iova::new(mapping.iova().raw() - 8), 4)?;
    let found = near_miss(edu).map_or("nothing".to_string(), |miss| miss.to_string());
    let (start, end) = (format!("guard: {}: read 8 before stream-", edu.device().name()), " of ");
    check!(found.starts_with(&start) && found.contains(end), "{found:?}, not {start:?}");
    pass!("{found}")
}

fn write_to_an_unmapped_buffer() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, 3 * PAGE_SIZE)?;
    let (at, tag) = (buffer.range().start() + (PAGE_SIZE + 16), *buffer.buffer().tag());
    drop(buffer);
    write_out(edu, at, 4)?;
    let name = edu.device().name();
    expect_report(
        near_miss(edu),
        &format!("guard: {name}: write at offset {} of {tag} (unmapped)", PAGE_SIZE + 16),
    )
}

fn canary_overwritten_by_a_device() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE + 100)?;
    let tag = *buffer.buffer().tag();
    poke(&buffer, 0, &[7; 4]);
    read_in(edu, buffer.range().start(), 4)?;
    write_out(edu, buffer.range().start() + (PAGE_SIZE + 112), 4)?;
    check!(guards::take_overrun().is_none(), "reported before the buffer was freed");
    drop(buffer);
    expect_report(
        guards::take_overrun(),
        &format!("guard: canary overwritten: 4 bytes, 12 past the end of {tag}"),
    )
}

fn canary_overwritten_by_the_kernel() -> Outcome {
    start();
    let mut pages = Pages::new(PAGE_SIZE - 64).map_err(|error| error.to_string())?;
    let tag = *pages.tag();
    pages.segment_bytes(0).unwrap_or_default().fill(1);
    let frame = dma_api::StreamMemory::segments(&*pages)[0].start;
    with_page(frame, MemoryType::WriteBack, |page| page[PAGE_SIZE as usize - 1] = 2);
    drop(pages);
    expect_report(
        guards::take_overrun(),
        &format!("guard: canary overwritten: 1 bytes, 63 past the end of {tag}"),
    )
}

fn write_after_free() -> Outcome {
    start();
    let reach = Reach::ANYWHERE;
    let page = zones::alloc(Order::PAGE, reach).ok_or("no frame")?;
    let frame = page.chunk().start();
    zones::free_from(page, LastOwner::Buffer);
    with_page(frame, MemoryType::WriteBack, |page| page[12..16].fill(0));
    // The per-CPU cache is LIFO: the frame is the next one.
    let again = zones::alloc(Order::PAGE, reach).ok_or("no frame")?;
    let same = again.chunk().start() == frame;
    zones::free(again);
    check!(same, "the next allocation is not {frame}");
    let wanted =
        format!("poison: 4 bytes at offset 12 of {frame} written after free, last owner: DMA buffer");
    expect_report(poison::take_finding(), &wanted)
}

/// Without an IOMMU a device can still reach a freed buffer.
fn device_write_after_free() -> Outcome {
    start();
    let Some(edu) = edu() else { skip!("no DMA device") };
    if edu.device().smmu().is_some() {
        skip!("the SMMU aborts the access");
    }
    let buffer = match dma::alloc(edu.device(), PAGE_SIZE, Attrs::NO_KERNEL_MAPPING) {
        Ok(buffer) => buffer,
        Err(error) => skip!("the device has no reachable memory: {error}"),
    };
    let Some(frame) = frame_at(buffer.buffer().chunks(), 0) else { return Err("no frame".to_string()) };
    let at = buffer.range().start();
    poke(&buffer, 0, &[0x15; 4]);
    read_in(edu, at, 4)?;
    write_out(edu, at + 8, 4)?;
    check!(peek(&buffer, 8, 4) == [0x15; 4], "the device did not write to the buffer");
    drop(buffer);
    write_out(edu, at + 12, 4)?;
    check!(take_until(frame), "{frame} was not allocated again");
    expect_report(
        poison::take_finding(),
        &format!("poison: 4 bytes at offset 12 of {frame} written after free, last owner: DMA buffer"),
    )
}

/// Allocates frames until `frame` is among them, and frees them.
fn take_until(frame: PhysAddr) -> bool {
    const MAX_FRAMES: usize = 4096;
    let mut taken = Vec::new();
    let mut found = false;
    while !found && taken.len() < MAX_FRAMES {
        let Some(page) = zones::alloc(Order::PAGE, Reach::ANYWHERE) else { break };
        found = page.chunk().start() == frame;
        taken.push(page);
    }
    taken.into_iter().for_each(zones::free);
    found
}
