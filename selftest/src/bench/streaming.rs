//! Streaming mappings: mapping and unmapping of existing memory.

use super::line::BenchLine;
use super::measure::Timings;
use crate::fixture::Fragmented;
use ::alloc::boxed::Box;
use ::alloc::sync::Arc;
use abi::memory::Prot;
use addr::{AddrRange, Order, PAGE_SIZE};
use core::cell::Cell;
use core::fmt::Display;
use dma_api::{Direction, DmaError, StreamMapError, StreamMemory};
use kernel::dma::Device;
use kernel::dma::stream::{self, Pages};
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use memory::Reach;

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);
/// Segments of the scatter-gather list, one page each.
const SEGMENTS: u64 = 256;

/// Measures a single contiguous segment.
pub fn single(device: &Arc<Device>) -> Result<(), DmaError> {
    for size in [4 << 10, 64 << 10] {
        measure(device, Pages::new(size)?, 256, "map_single", &0)?;
    }
    Ok(())
}

/// Measures a scatter-gather list of single pages, no two of them adjacent.
pub fn scattered(device: &Arc<Device>) -> Result<(), DmaError> {
    let fragmented = Fragmented::new(Reach::LOW, 2 * SEGMENTS);
    let pages = Pages::scattered(SEGMENTS * PAGE_SIZE);
    drop(fragmented);
    measure(device, pages?, 64, "map_sg", &"256x4K")
}

/// Measures memory of a program: pinning and mapping its blocks, which are adjacent or not, and the inverse.
pub fn pinned(device: &Arc<Device>) -> Result<(), DmaError> {
    for (size, rounds, attrs) in [(2 << 20, 64, "blocks"), (1 << 30, 8, "blocks"), (1 << 30, 8, "scattered")]
    {
        let fragmented = (attrs == "scattered")
            .then(|| Fragmented::in_pieces(Reach::HIGH, size / PAGE_SIZE, Order::BLOCK_2M));
        let space = AddressSpace::new().ok_or(DmaError::OutOfHeap)?;
        let refused = |_| DmaError::OutOfHeap;
        let at = space.map_anonymous(size, MmapPlacement::Hint(None), READ_WRITE).map_err(refused)?;
        let range = AddrRange::new(at, at + size);
        space.populate(range, READ_WRITE).map_err(refused)?;
        drop(fragmented);
        let map = || {
            let pages = space.pin(range, true).map_err(refused)?;
            stream::map(device, Box::new(pages), Direction::Bidirectional).map_err(|refused| refused.error)
        };
        let mut timings = Timings::measure(rounds, map, |mapping| drop(mapping.unmap()))?;
        let chunks = space.pin(range, true).map_err(refused)?.segments().len();
        BenchLine { name: "map_pinned", size, attrs, chunks, tables: 0, metadata: 0, parameter: None }
            .print(&mut timings);
    }
    Ok(())
}

fn measure(
    device: &Arc<Device>,
    pages: Box<Pages>,
    rounds: usize,
    name: &str,
    attrs: &dyn Display,
) -> Result<(), DmaError> {
    let (size, chunks) = (pages.segments().iter().map(|segment| segment.len).sum(), pages.segments().len());
    // `map` takes the memory and `unmap` returns it for the next round, unless the IOMMU timed out.
    let memory: Cell<Option<Box<dyn StreamMemory>>> = Cell::new(Some(pages));
    let map = || match memory.take() {
        Some(pages) => stream::map(device, pages, Direction::Bidirectional).map_err(Some),
        None => Err(None),
    };
    let timings = Timings::measure(rounds, map, |mapping| memory.set(mapping.unmap().ok()));
    let mut timings = timings
        .map_err(|refused| refused.map_or(DmaError::IommuTimeout, |refused: StreamMapError| refused.error))?;
    BenchLine { name, size, attrs, chunks, tables: 0, metadata: 0, parameter: None }.print(&mut timings);
    Ok(())
}
