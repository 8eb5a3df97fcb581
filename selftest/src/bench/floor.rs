//! What the parts cost alone: the clock, and filling a page with zeroes.

use super::line::Subject;
use super::measure::Measured;
use ::alloc::sync::Arc;
use addr::PAGE_SIZE;
use dma_api::DmaError;
use kernel::dma::Device;
use kernel::memory::{linear, zones};

const ROUNDS: usize = 256;

pub fn run(_: &Arc<Device>) -> Result<(), DmaError> {
    let mut timer = Measured::new(ROUNDS, || Ok::<_, DmaError>(()), |()| ())?;
    Subject { name: "floor_timer", size: 0, attrs: 0, chunks: 0, tables: 0, metadata: 0, at: None }
        .print(&mut timer);
    let Some(page) = zones::alloc_zeroed_page() else {
        return Err(DmaError::OutOfFrames { wanted: 1, had: 0 });
    };
    let range = linear::range_of(page.chunk().range());
    let fill = || {
        // SAFETY: the frame is this function's own, in the linear map, writable.
        unsafe { arch::memory::zero(range) };
        Ok(())
    };
    let mut zero = Measured::new(ROUNDS, fill, |()| ())?;
    zones::free(page);
    Subject {
        name: "floor_zero_page",
        size: PAGE_SIZE,
        attrs: 0,
        chunks: 1,
        tables: 0,
        metadata: 0,
        at: None,
    }
    .print(&mut zero);
    Ok(())
}
