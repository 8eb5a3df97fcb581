//! Memory that exists already, lent and taken back.

use super::line::Subject;
use super::measure::Measured;
use crate::fixture::Fragmented;
use ::alloc::boxed::Box;
use ::alloc::sync::Arc;
use addr::PAGE_SIZE;
use core::cell::Cell;
use core::fmt::Display;
use dma_api::{Direction, DmaError, StreamMapError, StreamMemory};
use kernel::dma::Device;
use kernel::dma::stream::{self, Pages};
use memory::Reach;

/// Pages in a scattered list.
const PIECES: u64 = 256;

/// One piece.
pub fn single(device: &Arc<Device>) -> Result<(), DmaError> {
    for size in [4 << 10, 64 << 10] {
        measure(device, Pages::new(size)?, 256, "map_single", &0)?;
    }
    Ok(())
}

/// A list of single pages, no two of them neighbours.
pub fn scattered(device: &Arc<Device>) -> Result<(), DmaError> {
    let torn = Fragmented::new(Reach::LOW, 2 * PIECES);
    let pages = Pages::scattered(PIECES * PAGE_SIZE);
    drop(torn);
    measure(device, pages?, 64, "map_sg", &"256x4K")
}

fn measure(
    device: &Arc<Device>,
    pages: Box<Pages>,
    rounds: usize,
    name: &str,
    attrs: &dyn Display,
) -> Result<(), DmaError> {
    let (size, chunks) = (pages.segments().iter().map(|segment| segment.len).sum(), pages.segments().len());
    // The memory goes around: what a round lends, its end gives back, unless the IOMMU keeps it.
    let own: Cell<Option<Box<dyn StreamMemory>>> = Cell::new(Some(pages));
    let lend = || match own.take() {
        Some(memory) => stream::map(device, memory, Direction::Bidirectional).map_err(Some),
        None => Err(None),
    };
    let measured = Measured::new(rounds, lend, |lent| own.set(lent.unmap().ok()));
    let mut measured = measured
        .map_err(|refused| refused.map_or(DmaError::IommuTimeout, |refused: StreamMapError| refused.error))?;
    Subject { name, size, attrs, chunks, tables: 0, metadata: 0, at: None }.print(&mut measured);
    Ok(())
}
