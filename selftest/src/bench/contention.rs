//! Many CPUs at a time: for a stretch of time each allocates and frees, or lends and takes back, as fast as
//! it can. So that it shows how much of that is the IOMMU's queue and registers, each also does nothing but
//! what every one of these operations ends with.

use crate::fixture::run_each;
use ::alloc::boxed::Box;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::PAGE_SIZE;
use arch::timer;
use dma_api::{Attrs, Direction, DmaError, StreamMemory};
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Device};
use kernel::iommu::Smmu;
use kernel::{kprintln, percpu};

/// Threads, one a CPU.
const THREADS: [usize; 4] = [1, 2, 4, 8];
/// Windows for each number of threads; the middle one counts.
const WINDOWS: usize = 3;
const BUFFER: u64 = 64 << 10;

/// What each thread does all the time.
#[derive(Clone, Copy)]
enum Work {
    Alloc,
    Map,
    /// A CMD_SYNC alone, which the SMMU is done with at once: a doorbell, and a look at CMDQ_CONS.
    Sync,
}

/// Counts operations of all threads together; one operation is both halves.
pub fn run(device: &Arc<Device>) -> Result<(), DmaError> {
    // Long enough for thousands of operations.
    let window = timer::frequency() / 20;
    for work in [Work::Alloc, Work::Map, Work::Sync] {
        for threads in THREADS.into_iter().filter(|&threads| threads <= percpu::online()) {
            let mut windows = (0..WINDOWS)
                .map(|_| measure(device, work, threads, window))
                .collect::<Result<Vec<_>, _>>()?;
            windows.sort_unstable_by_key(|each| each.iter().sum::<u64>());
            report(work, threads, window, &windows[WINDOWS / 2]);
        }
    }
    Ok(())
}

/// What each of `count` threads does in a window.
fn measure(device: &Arc<Device>, work: Work, count: usize, window: u64) -> Result<Vec<u64>, DmaError> {
    // Threads get to their CPUs before it begins.
    let start = timer::now() + window / 10;
    let device = device.clone();
    let each = run_each(count, move |_| work.repeat(&device, start, start + window));
    each.map_err(|_| DmaError::OutOfHeap)?.into_iter().collect()
}

fn report(work: Work, count: usize, window: u64, each: &[u64]) {
    let (size, name) = match work {
        Work::Alloc => (BUFFER, "alloc_64K_nkm"),
        Work::Map => (PAGE_SIZE, "map_single_4K"),
        Work::Sync => (0, "sync"),
    };
    let ops: u64 = each.iter().sum();
    let per_op = window.checked_div(ops).unwrap_or(0);
    let (least, most) = (each.iter().min().unwrap_or(&0), each.iter().max().unwrap_or(&0));
    kprintln!(
        "BENCH contention size={size} attrs={name} alloc_ticks={per_op} free_ticks=0 iters={ops} chunks=1 \
         threads={count} window_ticks={window} thread_ops_min={least} thread_ops_max={most}"
    );
}

impl Work {
    /// How many operations fit between `start` and `end`.
    fn repeat(self, device: &Arc<Device>, start: u64, end: u64) -> Result<u64, DmaError> {
        let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
        while timer::now() < start {}
        let mut ops = 0;
        while timer::now() < end {
            match self {
                Self::Alloc => drop(dma::alloc(device, BUFFER, Attrs::NO_KERNEL_MAPPING)?),
                Self::Map => {
                    let lent = stream::map(device, page, Direction::Bidirectional);
                    page = lent.map_err(|refused| refused.error)?.unmap()?;
                }
                Self::Sync => device.smmu().map_or(Ok(()), Smmu::sync)?,
            }
            ops += 1;
        }
        Ok(ops)
    }
}
