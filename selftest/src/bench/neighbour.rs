//! The slowdown of the first device by other devices that fault continuously: its transfers in a window of
//! time, and the streaming mappings that its driver makes meanwhile. A faulting device is rearmed as soon as
//! it is quarantined.

use super::MASK;
use crate::fixture::run_each;
use ::alloc::boxed::Box;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::{AddrRange, Iova, PAGE_SIZE};
use arch::timer;
use dma_api::{Direction, DmaError, DmaMask, StreamMemory};
use drivers::dma_engine::{self, Transfer};
use drivers::edu;
use kernel::devices;
use kernel::devices::dma_engine::{Completion, DmaEngineDevice};
use kernel::dma::Device;
use kernel::dma::stream::{self, Pages};
use kernel::{kprintln, sched};

/// An unmapped address.
const UNMAPPED: Iova = Iova::new(0x0abc_d000);
/// The time in which the fault thread reports the number of suppressed log lines.
const REPORT_DELAY_NS: u64 = 3_000_000_000;

#[derive(Clone, Copy, Default)]
struct ThreadCounts {
    transfers: u64,
    /// The duration of all transfers.
    transfer_ticks: u64,
    mapped: u64,
    faults: u64,
    quarantines: u64,
    /// Devices whose first fault was recorded with its address.
    recorded: u64,
    /// Copies that were reported as complete, but have wrong data or are those of a quarantined device.
    wrong: u64,
}

/// Measures without and with faulting devices; returns immediately without other devices or without an SMMU.
pub fn run(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut engines = devices::dma_engines();
    let Some(first) = engines.next() else { return Ok(()) };
    let neighbours: Vec<_> = engines.collect();
    if neighbours.is_empty() || first.device().smmu().is_none() {
        return Ok(());
    }
    // The actual address width, since the device transfers data here.
    first.device().set_mask(DmaMask::up_to(edu::DMA_MASK))?;
    // Two seconds: the time of twenty transfers of an `edu`, half of which are a faulting device's copies.
    let window = 2 * timer::frequency();
    for (attrs, neighbours) in [("quiet", Vec::new()), ("faulting", neighbours)] {
        let number = neighbours.len();
        let count = measure(first, neighbours, window)?;
        report(attrs, number, window, count);
    }
    // Wait for the report of suppressed log lines.
    _ = sched::sleep_until(sched::time::now() + REPORT_DELAY_NS);
    device.set_mask(MASK)
}

fn measure(
    first: &'static DmaEngineDevice,
    neighbours: Vec<&'static DmaEngineDevice>,
    window: u64,
) -> Result<ThreadCounts, DmaError> {
    let end = timer::now() + window;
    let threads = 2 + neighbours.len();
    let work = move |thread: usize| match thread {
        0 => transfer(first, end),
        1 => map_and_unmap(first.device(), end),
        _ => fault(neighbours[thread - 2], end),
    };
    let counts = run_each(threads, work).map_err(|_| DmaError::OutOfHeap)?;
    counts.into_iter().try_fold(ThreadCounts::default(), |sum, count| count.map(|count| sum.and(count)))
}

fn report(attrs: &str, neighbours: usize, window: u64, count: ThreadCounts) {
    let ThreadCounts { transfers, transfer_ticks, mapped, faults, quarantines, recorded, wrong } = count;
    kprintln!(
        "BENCH neighbour size={PAGE_SIZE} attrs={attrs} alloc_ticks={} free_ticks=0 iters={mapped} chunks=1 \
         transfers={transfers} transfer_ticks={} faults={faults} quarantines={quarantines} neighbours={neighbours} reported={recorded} wrong={wrong}",
        window / mapped.max(1),
        transfer_ticks / transfers.max(1),
    );
}

impl ThreadCounts {
    fn and(self, other: Self) -> Self {
        Self {
            transfers: self.transfers + other.transfers,
            transfer_ticks: self.transfer_ticks + other.transfer_ticks,
            mapped: self.mapped + other.mapped,
            faults: self.faults + other.faults,
            quarantines: self.quarantines + other.quarantines,
            recorded: self.recorded + other.recorded,
            wrong: self.wrong + other.wrong,
        }
    }
}

/// Copies a page to the device and back, with other data each time, and maps it for each transfer.
fn transfer(engine: &DmaEngineDevice, end: u64) -> Result<ThreadCounts, DmaError> {
    let (mut count, start) = (ThreadCounts::default(), timer::now());
    while timer::now() < end {
        let data = 1 + (count.transfers / 2) as u8;
        let loaded = load(engine, data)?;
        let stored = store(engine, data)?;
        if !loaded || !stored.complete {
            log::error!("{}: a copy is not complete", engine.device().name());
            break;
        }
        count.transfers += 2;
        count.wrong += u64::from(!stored.right);
    }
    count.transfer_ticks = timer::now() - start;
    Ok(count)
}

/// Lets the device read a page of `data` into its buffer. Returns whether the copy is complete.
fn load(engine: &DmaEngineDevice, data: u8) -> Result<bool, DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    page.bytes().into_iter().for_each(|bytes| bytes.fill(data));
    let mapping = stream::map(engine.device(), page, Direction::ToDevice).map_err(|refused| refused.error)?;
    let done = engine.transfer(page_transfer(dma_engine::TransferDirection::FromMemory, mapping.iova()));
    mapping.unmap()?;
    Ok(done.is_ok_and(Completion::is_complete))
}

/// A copy from the device's buffer to a page.
struct Stored {
    /// It was reported as complete.
    complete: bool,
    /// The page has the data.
    right: bool,
}

/// Lets the device write its buffer, which must be full of `data`, to a page.
fn store(engine: &DmaEngineDevice, data: u8) -> Result<Stored, DmaError> {
    let page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    let mapping =
        stream::map(engine.device(), page, Direction::FromDevice).map_err(|refused| refused.error)?;
    let done = engine.transfer(page_transfer(dma_engine::TransferDirection::ToMemory, mapping.iova()));
    let mut page = mapping.unmap()?;
    let right = page.bytes().is_some_and(|bytes| bytes.iter().all(|&byte| byte == data));
    Ok(Stored { complete: done.is_ok_and(Completion::is_complete), right })
}

/// Maps and unmaps a page continuously, while the device transfers.
fn map_and_unmap(device: &Arc<Device>, end: u64) -> Result<ThreadCounts, DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    let mut count = ThreadCounts::default();
    while timer::now() < end {
        let mapping = stream::map(device, page, Direction::Bidirectional).map_err(|refused| refused.error)?;
        page = mapping.unmap()?;
        count.mapped += 1;
        sched::yield_now();
    }
    Ok(count)
}

/// Faults continuously, and rearms the device when it is quarantined. After each fault it copies to a page
/// that is mapped: the copy may be complete only if the IOMMU has not aborted it, also if events are lost.
fn fault(engine: &DmaEngineDevice, end: u64) -> Result<ThreadCounts, DmaError> {
    const DATA: u8 = 0xd7;
    let (mut count, before) = (ThreadCounts::default(), engine.device().service_total_faults());
    load(engine, DATA)?;
    while timer::now() < end {
        if let Err(error) = engine.transfer(page_transfer(dma_engine::TransferDirection::ToMemory, UNMAPPED))
        {
            log::error!("{}: {error}", engine.device().name());
            break;
        }
        let copy = store(engine, DATA)?;
        count.wrong += u64::from(copy.complete && !copy.right);
        let is_quarantined = engine.device().is_quarantined();
        if count.recorded == 0 && first_fault_address(engine.device()) == Some(UNMAPPED) {
            count.recorded = 1;
        }
        if is_quarantined {
            count.quarantines += 1;
            count.wrong += u64::from(store(engine, DATA)?.complete);
            engine.device().rearm()?;
        }
    }
    count.faults = engine.device().service_total_faults() - before;
    Ok(count)
}

fn first_fault_address(device: &Device) -> Option<Iova> {
    device.first_fault()?.transaction.map(|transaction| Iova::new(transaction.address))
}

fn page_transfer(direction: dma_engine::TransferDirection, memory: Iova) -> Transfer {
    // SAFETY: a page that is mapped for the device, or an address that is not mapped; the devices are behind
    // an IOMMU.
    unsafe { Transfer::new(direction, AddrRange::new(memory, memory + PAGE_SIZE), 0) }
}
