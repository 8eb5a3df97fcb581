//! The cost of single parts: reading the counter, and zeroing a page.

use super::line::BenchLine;
use super::measure::Timings;
use ::alloc::sync::Arc;
use addr::PAGE_SIZE;
use dma_api::DmaError;
use kernel::dma::Device;
use kernel::memory::{linear, zones};

const ROUNDS: usize = 256;

pub fn run(_: &Arc<Device>) -> Result<(), DmaError> {
    let mut timer = Timings::measure(ROUNDS, || Ok::<_, DmaError>(()), |()| ())?;
    BenchLine { name: "floor_timer", size: 0, attrs: 0, chunks: 0, tables: 0, metadata: 0, parameter: None }
        .print(&mut timer);
    let Some(page) = zones::alloc_zeroed_page() else {
        return Err(DmaError::OutOfFrames { wanted: 1, had: 0 });
    };
    let range = linear::range_of(page.chunk().range());
    let fill = || {
        // SAFETY: this function owns the frame, which is in the linear map, writable.
        unsafe { arch::memory::zero(range) };
        Ok(())
    };
    let mut zero = Timings::measure(ROUNDS, fill, |()| ())?;
    zones::free(page);
    BenchLine {
        name: "floor_zero_page",
        size: PAGE_SIZE,
        attrs: 0,
        chunks: 1,
        tables: 0,
        metadata: 0,
        parameter: None,
    }
    .print(&mut zero);
    Ok(())
}
