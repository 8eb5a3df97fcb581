//! What the first device loses while its neighbours fault as fast as they can: transfers in a stretch of
//! time, and how often memory can be lent meanwhile. A neighbour that is put into quarantine is armed again
//! at once.

use super::MASK;
use crate::fixture::run_each;
use ::alloc::boxed::Box;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::{Iova, PAGE_SIZE};
use arch::timer;
use dma_api::{Direction, DmaError, DmaMask, StreamMemory};
use drivers::dma_engine::{self, Transfer};
use drivers::edu;
use kernel::devices;
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::Device;
use kernel::dma::stream::{self, Pages};
use kernel::{kprintln, sched};

/// Where nothing is mapped.
const NOWHERE: Iova = Iova::new(0x0abc_d000);
/// How long the thread that tells what was not shown may take.
const TELLING_NS: u64 = 3_000_000_000;

/// What one thread counted.
#[derive(Clone, Copy, Default)]
struct Count {
    transfers: u64,
    /// How long they took.
    transfer_ticks: u64,
    lent: u64,
    faults: u64,
    quarantines: u64,
    /// Devices whose first fault was seen as it was.
    told: u64,
}

/// Measures without and with the faults; nothing if there are no neighbours or no SMMU.
pub fn run(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut engines = devices::dma_engines();
    let Some(first) = engines.next() else { return Ok(()) };
    let neighbours: Vec<_> = engines.collect();
    if neighbours.is_empty() || first.device().smmu().is_none() {
        return Ok(());
    }
    // What it really puts on the bus: it does transfer here.
    first.device().set_mask(DmaMask::up_to(edu::DMA_MASK))?;
    // Ten transfers of an `edu`.
    let window = timer::frequency();
    for (attrs, neighbours) in [("quiet", Vec::new()), ("faulting", neighbours)] {
        let number = neighbours.len();
        let count = measure(first, neighbours, window)?;
        report(attrs, number, window, count);
    }
    // The log ends with how many events it does not show.
    _ = sched::sleep_until(sched::time::now() + TELLING_NS);
    device.set_mask(MASK)
}

fn measure(
    first: &'static DmaEngineDevice,
    neighbours: Vec<&'static DmaEngineDevice>,
    window: u64,
) -> Result<Count, DmaError> {
    let end = timer::now() + window;
    let threads = 2 + neighbours.len();
    let work = move |thread: usize| match thread {
        0 => transfers(first, end),
        1 => lends(first.device(), end),
        _ => faults(neighbours[thread - 2], end),
    };
    let counts = run_each(threads, work).map_err(|_| DmaError::OutOfHeap)?;
    counts.into_iter().try_fold(Count::default(), |sum, count| count.map(|count| sum.and(count)))
}

fn report(attrs: &str, neighbours: usize, window: u64, count: Count) {
    let Count { transfers, transfer_ticks, lent, faults, quarantines, told } = count;
    kprintln!(
        "BENCH neighbour size={PAGE_SIZE} attrs={attrs} alloc_ticks={} free_ticks=0 iters={lent} chunks=1 \
         transfers={transfers} transfer_ticks={} faults={faults} quarantines={quarantines} neighbours={neighbours} told={told}",
        window / lent.max(1),
        transfer_ticks / transfers.max(1),
    );
}

impl Count {
    fn and(self, other: Self) -> Self {
        Self {
            transfers: self.transfers + other.transfers,
            transfer_ticks: self.transfer_ticks + other.transfer_ticks,
            lent: self.lent + other.lent,
            faults: self.faults + other.faults,
            quarantines: self.quarantines + other.quarantines,
            told: self.told + other.told,
        }
    }
}

/// Lends a page for each of the device's transfers.
fn transfers(engine: &DmaEngineDevice, end: u64) -> Result<Count, DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    let (mut count, start) = (Count::default(), timer::now());
    while timer::now() < end {
        let lent =
            stream::map(engine.device(), page, Direction::ToDevice).map_err(|refused| refused.error)?;
        let copied = engine.transfer(page_at(dma_engine::TransferDirection::FromMemory, lent.iova()));
        page = lent.unmap()?;
        match copied {
            Ok(done) if done.is_whole() => count.transfers += 1,
            other => {
                log::error!("{}: {other:?}", engine.device().name());
                break;
            }
        }
    }
    count.transfer_ticks = timer::now() - start;
    Ok(count)
}

/// What else a driver does, as often as it can: the time that is not the device's.
fn lends(device: &Arc<Device>, end: u64) -> Result<Count, DmaError> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
    let mut count = Count::default();
    while timer::now() < end {
        let lent = stream::map(device, page, Direction::Bidirectional).map_err(|refused| refused.error)?;
        page = lent.unmap()?;
        count.lent += 1;
        sched::yield_now();
    }
    Ok(count)
}

fn faults(engine: &DmaEngineDevice, end: u64) -> Result<Count, DmaError> {
    let (mut count, before) = (Count::default(), engine.device().all_faults());
    while timer::now() < end {
        if let Err(error) = engine.transfer(page_at(dma_engine::TransferDirection::ToMemory, NOWHERE)) {
            log::error!("{}: {error}", engine.device().name());
            break;
        }
        let is_quarantined = engine.device().is_quarantined();
        if count.told == 0 && first_address(engine.device()) == Some(NOWHERE) {
            count.told = 1;
        }
        if is_quarantined {
            count.quarantines += 1;
            engine.device().rearm()?;
        }
    }
    count.faults = engine.device().all_faults() - before;
    Ok(count)
}

fn first_address(device: &Device) -> Option<Iova> {
    device.first_fault()?.transaction.map(|transaction| Iova::new(transaction.address))
}

fn page_at(direction: dma_engine::TransferDirection, memory: Iova) -> Transfer {
    Transfer { direction, memory, offset: 0, len: PAGE_SIZE }
}
