//! Allocation of coherent buffers, from unfragmented and from fragmented memory.

use super::line::BenchLine;
use super::measure::Timings;
use crate::fixture::Fragmented;
use ::alloc::sync::Arc;
use dma_api::{Attrs, DmaError};
use kernel::dma::{self, Device};
use memory::Reach;

/// Buffer sizes and the rounds of each, equal to those of the Linux benchmark.
pub const SIZES: [(u64, usize); 7] = [
    (4 << 10, 64),
    (64 << 10, 64),
    (1 << 20, 32),
    (2 << 20, 32),
    (16 << 20, 16),
    (64 << 20, 8),
    (256 << 20, 8),
];
const NO_VIEW: Attrs = Attrs::NO_KERNEL_MAPPING;
/// Free frames of the fragmented memory: twice as many as the largest buffer needs.
const SCATTERED: u64 = 2 * (256 << 20) / addr::PAGE_SIZE;

/// Measures with the unfragmented memory after boot.
pub fn unfragmented(device: &Arc<Device>) -> Result<(), DmaError> {
    let variants =
        [Attrs::empty(), NO_VIEW, NO_VIEW | Attrs::WRITE_COMBINE, NO_VIEW | Attrs::ALLOC_SINGLE_PAGES];
    variants.into_iter().try_for_each(|attrs| measure_all_sizes(device, "alloc", attrs))
}

/// Measures with highmem in which no two free frames are adjacent.
pub fn fragmented(device: &Arc<Device>) -> Result<(), DmaError> {
    let _fragmented = Fragmented::new(Reach::HIGH, SCATTERED);
    let variants = [NO_VIEW | Attrs::ALLOC_SINGLE_PAGES, NO_VIEW];
    variants.into_iter().try_for_each(|attrs| measure_all_sizes(device, "frag_alloc", attrs))
}

fn measure_all_sizes(device: &Arc<Device>, name: &str, attrs: Attrs) -> Result<(), DmaError> {
    SIZES.into_iter().try_for_each(|(size, rounds)| measure_size(device, name, size, attrs, rounds))
}

/// Measures the allocation and the release of `size` bytes.
pub fn measure_size(
    device: &Arc<Device>,
    name: &str,
    size: u64,
    attrs: Attrs,
    rounds: usize,
) -> Result<(), DmaError> {
    let mut timings = Timings::measure(rounds, || dma::alloc(device, size, attrs), drop)?;
    let line = BenchLine { name, size, attrs, ..BenchLine::of_buffer(device, size, attrs)? };
    line.print(&mut timings);
    Ok(())
}
