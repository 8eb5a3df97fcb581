//! The checking build finds what it is to find: each test does what nobody may do, and compares the words.

use super::device::{edu, frame_at, peek, poke, read_in, with_page, write_out};
use super::{Outcome, Test};
use crate::{check, pass, skip};
use addr::{MemoryType, Order, PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use dma_api::{Attrs, Direction};
use kernel::checking::{Last, guards, poison};
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Attachment};
use kernel::memory::zones;
use memory::Reach;

pub const TESTS: &[Test] = &[
    Test { name: "checking.a_write_behind_a_buffer_names_it", run: behind_a_buffer },
    Test { name: "checking.a_read_before_a_stream_names_it", run: before_a_stream },
    Test { name: "checking.a_write_to_a_buffer_that_is_gone_names_it", run: to_what_is_gone },
    Test { name: "checking.a_canary_that_a_device_wrote_is_found", run: canary_of_a_buffer },
    Test { name: "checking.a_canary_that_the_kernel_wrote_is_found", run: canary_of_pages },
    Test { name: "checking.a_write_to_a_free_frame_is_found", run: free_frame },
    Test { name: "checking.a_device_that_writes_to_a_free_frame_is_found", run: free_frame_by_device },
];

/// Forgets what was found before.
fn start() -> Option<&'static DmaEngineDevice> {
    _ = (guards::take_miss(), guards::take_overrun(), poison::take_finding());
    edu().filter(|edu| edu.device().smmu().is_some())
}

fn new_buffer(edu: &DmaEngineDevice, len: u64) -> Result<Attachment, String> {
    dma::alloc(edu.device(), len, Attrs::NO_KERNEL_MAPPING).map_err(|error| error.to_string())
}

/// What was found is said in these words.
fn said(found: Option<impl Display>, wanted: &str) -> Outcome {
    let said = found.map_or("nothing".to_string(), |found| found.to_string());
    check!(said == wanted, "{said:?}, not {wanted:?}");
    pass!("{said}")
}

/// What the SMMU has recorded is on the console, and explained.
fn miss(edu: &DmaEngineDevice) -> Option<guards::Miss> {
    edu.device().smmu()?.service();
    guards::take_miss()
}

fn behind_a_buffer() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let (buffer, next) = (new_buffer(edu, PAGE_SIZE)?, new_buffer(edu, PAGE_SIZE)?);
    // It may also be before it: another CPU takes from elsewhere.
    check!(next.range().start() != buffer.range().end(), "{next:?} follows {buffer:?} at once");
    write_out(edu, buffer.range().end() + 12, 4)?;
    let (name, tag) = (edu.device().name(), buffer.buffer().tag());
    said(miss(edu), &format!("guard: {name} wrote 12 past {tag}"))
}

fn before_a_stream() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let pages = Pages::new(32 * PAGE_SIZE).map_err(|error| error.to_string())?;
    let lent = stream::map(edu.device(), pages, Direction::ToDevice).map_err(|r| r.error.to_string())?;
    read_in(edu, addr::Iova::new(lent.iova().raw() - 8), 4)?;
    let found = miss(edu).map_or("nothing".to_string(), |miss| miss.to_string());
    let (start, end) = (format!("guard: {} read 8 before stream-", edu.device().name()), " of ");
    check!(found.starts_with(&start) && found.contains(end), "{found:?}, not {start:?}");
    pass!("{found}")
}

fn to_what_is_gone() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, 3 * PAGE_SIZE)?;
    let (at, tag) = (buffer.range().start() + (PAGE_SIZE + 16), *buffer.buffer().tag());
    drop(buffer);
    write_out(edu, at, 4)?;
    let name = edu.device().name();
    said(miss(edu), &format!("guard: {name} wrote at {} of {tag}, which is gone", PAGE_SIZE + 16))
}

fn canary_of_a_buffer() -> Outcome {
    let Some(edu) = start() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE + 100)?;
    let tag = *buffer.buffer().tag();
    poke(&buffer, 0, &[7; 4]);
    read_in(edu, buffer.range().start(), 4)?;
    write_out(edu, buffer.range().start() + (PAGE_SIZE + 112), 4)?;
    check!(guards::take_overrun().is_none(), "found before anybody looked");
    drop(buffer);
    said(guards::take_overrun(), &format!("guard: somebody wrote 4 bytes 12 past {tag}"))
}

fn canary_of_pages() -> Outcome {
    start();
    let mut pages = Pages::new(PAGE_SIZE - 64).map_err(|error| error.to_string())?;
    let tag = *pages.tag();
    pages.piece(0).unwrap_or_default().fill(1);
    let frame = dma_api::StreamMemory::segments(&*pages)[0].start;
    with_page(frame, MemoryType::WriteBack, |page| page[PAGE_SIZE as usize - 1] = 2);
    drop(pages);
    said(guards::take_overrun(), &format!("guard: somebody wrote 1 bytes 63 past {tag}"))
}

fn free_frame() -> Outcome {
    start();
    let reach = Reach::ANYWHERE;
    let page = zones::take(Order::PAGE, reach).ok_or("no frame")?;
    let frame = page.chunk().start();
    zones::give_from(page, Last::Buffer);
    with_page(frame, MemoryType::WriteBack, |page| page[12..16].fill(0));
    // What a CPU has given back last it gets first.
    let again = zones::take(Order::PAGE, reach).ok_or("no frame")?;
    let same = again.chunk().start() == frame;
    zones::give(again);
    check!(same, "another frame than {frame}");
    let wanted =
        format!("poison: 4 bytes at offset 12 of {frame} were written after a buffer had given it back");
    said(poison::take_finding(), &wanted)
}

/// Without an IOMMU nothing else keeps a device from what was its buffer.
fn free_frame_by_device() -> Outcome {
    start();
    let Some(edu) = edu() else { skip!("nothing moves bytes") };
    if edu.device().smmu().is_some() {
        skip!("the SMMU keeps it from that");
    }
    let buffer = match dma::alloc(edu.device(), PAGE_SIZE, Attrs::NO_KERNEL_MAPPING) {
        Ok(buffer) => buffer,
        Err(error) => skip!("it reaches no memory: {error}"),
    };
    let Some(frame) = frame_at(buffer.buffer().chunks(), 0) else { return Err("no frame".to_string()) };
    let at = buffer.range().start();
    poke(&buffer, 0, &[0x15; 4]);
    read_in(edu, at, 4)?;
    write_out(edu, at + 8, 4)?;
    check!(peek(&buffer, 8, 4) == [0x15; 4], "what it writes does not arrive");
    drop(buffer);
    write_out(edu, at + 12, 4)?;
    check!(take_until(frame), "nobody gets {frame} again");
    said(
        poison::take_finding(),
        &format!("poison: 4 bytes at offset 12 of {frame} were written after a buffer had given it back"),
    )
}

/// Takes frames until `frame` is among them, and gives them back.
fn take_until(frame: PhysAddr) -> bool {
    const MOST: usize = 4096;
    let mut taken = Vec::new();
    let mut found = false;
    while !found && taken.len() < MOST {
        let Some(page) = zones::take(Order::PAGE, Reach::ANYWHERE) else { break };
        found = page.chunk().start() == frame;
        taken.push(page);
    }
    taken.into_iter().for_each(zones::give);
    found
}
