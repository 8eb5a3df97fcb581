//! Contention: for a window of time, each of several threads allocates and frees buffers, or maps and unmaps
//! memory, as fast as it can. To show the share of the IOMMU's queue and registers, a third run of each
//! thread only performs the `CMD_SYNC` with which each of these operations ends.

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

/// Numbers of threads, at most one for each CPU.
const THREADS: [usize; 4] = [1, 2, 4, 8];
/// Windows for each number of threads; the median is reported.
const WINDOWS: usize = 3;
const BUFFER: u64 = 64 << 10;

/// The operation that each thread repeats.
#[derive(Clone, Copy)]
enum Work {
    Alloc,
    Map,
    /// A CMD_SYNC alone, which completes immediately: a doorbell write and a read of CMDQ_CONS.
    Sync,
}

/// Measures the operations of all threads together. Allocating and freeing count as one operation, and so do
/// mapping and unmapping.
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

/// Returns the operations of each of `count` threads in a window.
fn measure(device: &Arc<Device>, work: Work, count: usize, window: u64) -> Result<Vec<u64>, DmaError> {
    // The threads are distributed over the CPUs before the window starts.
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
    /// Repeats the operation from `start` to `end` and returns the count.
    fn repeat(self, device: &Arc<Device>, start: u64, end: u64) -> Result<u64, DmaError> {
        let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE)?;
        while timer::now() < start {}
        let mut ops = 0;
        while timer::now() < end {
            match self {
                Self::Alloc => drop(dma::alloc(device, BUFFER, Attrs::NO_KERNEL_MAPPING)?),
                Self::Map => {
                    let mapping = stream::map(device, page, Direction::Bidirectional);
                    page = mapping.map_err(|refused| refused.error)?.unmap()?;
                }
                Self::Sync => device.smmu().map_or(Ok(()), Smmu::sync)?,
            }
            ops += 1;
        }
        Ok(ops)
    }
}
