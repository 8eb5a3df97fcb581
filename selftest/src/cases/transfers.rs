//! DMA by a device: through scattered chunks that are one IOVA range, and from several CPUs and devices
//! concurrently.

use super::device::{edu, frame_at, peek, poke, read_in, write_out};
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::fixture::Fragmented;
use crate::{check, pass, skip};
use addr::{Chunk, PAGE_SIZE, Size};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::timer::Deadline;
use dma_api::{Attrs, DmaMask};
use drivers::direct::BusWindow;
use kernel::dma::{self, Attachment, Device, counters};
use kernel::memory::zones;
use memory::{Reach, Zone};

pub const TESTS: &[Test] = &[
    Test { name: "dma.edu_copies_across_chunk_boundaries", run: edu_copies_across_chunk_boundaries },
    Test { name: "dma.iommu_maps_frames_above_the_dma_mask", run: iommu_maps_frames_above_the_dma_mask },
    Test { name: "dma.two_devices_share_one_buffer", run: two_devices_share_one_buffer },
    Test {
        name: "dma.all_cpus_allocate_and_free_concurrently",
        run: all_cpus_allocate_and_free_concurrently,
    },
];

const NO_VIEW: Attrs = Attrs::NO_KERNEL_MAPPING;

/// A pattern without repeated adjacent bytes, different for each seed.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn alloc(device: &Arc<Device>, len: u64, attrs: Attrs) -> Result<Attachment, String> {
    dma::alloc(device, len, attrs).map_err(|error| format!("alloc {}: {error}", Size(len)))
}

/// Allocates from a zone with single free frames only, so that no two chunks are adjacent.
fn edu_copies_across_chunk_boundaries() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        skip!("no IOMMU: a buffer is one chunk");
    }
    if zones::stats(Zone::High).total == 0 {
        skip!("no highmem to fragment: the kernel itself would run out of memory");
    }
    let fragmented = Fragmented::new(Reach::HIGH, 4096);
    let buffer = alloc(edu.device(), 64 * PAGE_SIZE, NO_VIEW);
    drop(fragmented);
    let buffer = buffer?;
    let chunks: Vec<Chunk> = buffer.buffer().chunks().collect();
    check!(chunks.len() == 64, "64 frames in {} chunks", chunks.len());
    let adjacent = chunks.windows(2).filter(|pair| pair[0].range().end() == pair[1].start()).count();
    check!(adjacent == 0, "{adjacent} adjacent pairs among {} chunks", chunks.len());
    check!(buffer.buffer().kernel_view().is_none(), "a kernel view: {:x?}", buffer.buffer().kernel_view());
    // The device reads across one chunk boundary and writes across another.
    let (from, to, len) = (3 * PAGE_SIZE - 100, 9 * PAGE_SIZE - 60, 200);
    let sent = pattern(1, len as usize);
    poke(&buffer, from, &sent);
    read_in(edu, buffer.range().start() + from, len)?;
    write_out(edu, buffer.range().start() + to, len)?;
    let (got, before, after) =
        (peek(&buffer, to, len as usize), peek(&buffer, to - 1, 1), peek(&buffer, to + len, 1));
    check!(
        got == sent,
        "{len} bytes: first difference at {:?}",
        got.iter().zip(&sent).position(|(a, b)| a != b)
    );
    check!((before[0], after[0]) == (0, 0), "the adjacent bytes are {before:?} and {after:?}");
    pass!(
        "{len} bytes across the boundaries {:?}|{:?} and {:?}|{:?}",
        chunks[2],
        chunks[3],
        chunks[8],
        chunks[9]
    )
}

fn iommu_maps_frames_above_the_dma_mask() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        skip!("no IOMMU");
    }
    let buffer = alloc(edu.device(), PAGE_SIZE, NO_VIEW)?;
    let Some(frame) = frame_at(buffer.buffer().chunks(), 0) else { return Err("no frame".to_string()) };
    let mask = edu.device().mask().highest().raw();
    let last = buffer.range().end().raw() - 1;
    check!(last <= mask, "IOVAs up to {last:#x}, mask {mask:#x}");
    check!(frame.raw() > mask, "frame {frame} is below the mask {mask:#x}");
    poke(&buffer, 0, b"0123456789");
    read_in(edu, buffer.range().start(), 10)?;
    write_out(edu, buffer.range().start() + 100, 10)?;
    check!(peek(&buffer, 100, 10) == b"0123456789", "the device copied {:x?}", peek(&buffer, 100, 10));
    pass!("mask {mask:#x}, IOVA {}, memory at {frame}", buffer.range().start())
}

fn two_devices_share_one_buffer() -> Outcome {
    let Some(edu) = edu() else { skip!("no edu device") };
    if !edu.device().domain().is_translated() {
        skip!("no IOMMU: the device does not reach memory above its mask");
    }
    let Some(other) = kernel::devices::dma_engines().nth(1) else { skip!("only one edu device") };
    let buffer = alloc(edu.device(), 4 * PAGE_SIZE, NO_VIEW)?;
    let second = Attachment::new(other.device(), buffer.buffer().clone(), dma::MapPlacement::Whole);
    let second = second.map_err(|error| error.to_string())?;
    let sent = pattern(7, 300);
    poke(&buffer, 4000, &sent);
    read_in(edu, buffer.range().start() + 4000, 300)?;
    write_out(edu, buffer.range().start() + 8000, 300)?;
    read_in(other, second.range().start() + 8000, 300)?;
    drop(buffer);
    write_out(other, second.range().start(), 300)?;
    check!(peek(&second, 0, 300) == sent, "the copy through both devices differs");
    pass!(
        "300 bytes through {} and {}, after the first attachment was dropped",
        edu.device().name(),
        other.device().name()
    )
}

/// Returns the first device, or without an IOMMU a device that reaches all memory: RAM may be above the
/// mask of the edu.
fn device_that_reaches_ram() -> Result<Arc<Device>, String> {
    if let Some(edu) = edu().filter(|edu| edu.device().domain().is_translated()) {
        return Ok(edu.device().clone());
    }
    let device = Device::direct("selftest".to_string(), true, Vec::from([BusWindow::identity()]));
    device.set_mask(DmaMask::bits(64)).map_err(|error| error.to_string())?;
    Ok(device)
}

fn all_cpus_allocate_and_free_concurrently() -> Outcome {
    /// Ends the rounds early: an emulator with more CPUs than its host is slow.
    const TIME_LIMIT_NS: u64 = 5_000_000_000;
    const ROUNDS: u64 = 200;
    let device = device_that_reaches_ram()?;
    let cpus = kernel::percpu::online();
    let before = ResourceSnapshot::now();
    let lost = counters::read().lost_bytes.now;
    let deadline = Deadline::in_ns(TIME_LIMIT_NS);
    let results = crate::fixture::run_each(cpus, move |thread| {
        for round in 0..ROUNDS {
            alloc_and_free(&device, round, thread as u64)
                .map_err(|error| format!("thread {thread} round {round}: {error}"))?;
            if deadline.passed() {
                return Ok(round + 1);
            }
        }
        Ok(ROUNDS)
    })?;
    let buffers = results.into_iter().sum::<Result<u64, String>>()?;
    before.settle("after the threads ended")?;
    check!(counters::read().lost_bytes.now == lost, "memory was leaked by a failed invalidation");
    pass!("{buffers} buffers by {cpus} threads on {cpus} CPUs")
}

/// Allocates a buffer, checks that it is zero and that a value written to it is unchanged, and frees it.
fn alloc_and_free(device: &Arc<Device>, round: u64, thread: u64) -> Result<(), String> {
    let attrs = if round.is_multiple_of(3) { NO_VIEW | Attrs::ALLOC_SINGLE_PAGES } else { NO_VIEW };
    let len = PAGE_SIZE << ((round + thread) % 7);
    let buffer = dma::alloc(device, len, attrs).map_err(|error| error.to_string())?;
    let mark = (round << 8 | thread).to_le_bytes();
    poke(&buffer, len - 8, &mark);
    let first = peek(&buffer, 0, 8);
    check!(first == [0; 8], "a new buffer holds {first:x?}");
    check!(peek(&buffer, len - 8, 8) == mark, "the value written to the buffer has changed");
    Ok(())
}
