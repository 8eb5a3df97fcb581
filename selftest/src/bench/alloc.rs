//! Coherent buffers, from memory in large chunks and in single frames.

use super::line::Subject;
use super::measure::Measured;
use crate::fixture::Fragmented;
use ::alloc::sync::Arc;
use dma_api::{Attrs, DmaError};
use kernel::dma::{self, Device};
use memory::Reach;

/// Bytes, and how often: the peer's.
pub const SIZES: [(u64, usize); 7] = [
    (4 << 10, 64),
    (64 << 10, 64),
    (1 << 20, 32),
    (2 << 20, 32),
    (16 << 20, 16),
    (64 << 20, 8),
    (256 << 20, 8),
];
const UNSEEN: Attrs = Attrs::NO_KERNEL_MAPPING;
/// Frames to scatter: for the largest buffer, and as many to choose from.
const SCATTERED: u64 = 2 * (256 << 20) / addr::PAGE_SIZE;

/// Memory as boot left it.
pub fn whole(device: &Arc<Device>) -> Result<(), DmaError> {
    let variants =
        [Attrs::empty(), UNSEEN, UNSEEN | Attrs::WRITE_COMBINE, UNSEEN | Attrs::ALLOC_SINGLE_PAGES];
    variants.into_iter().try_for_each(|attrs| all_sizes(device, "alloc", attrs))
}

/// No two free frames of high memory are neighbours.
pub fn fragmented(device: &Arc<Device>) -> Result<(), DmaError> {
    let _torn = Fragmented::new(Reach::HIGH, SCATTERED);
    let variants = [UNSEEN | Attrs::ALLOC_SINGLE_PAGES, UNSEEN];
    variants.into_iter().try_for_each(|attrs| all_sizes(device, "frag_alloc", attrs))
}

fn all_sizes(device: &Arc<Device>, name: &str, attrs: Attrs) -> Result<(), DmaError> {
    SIZES.into_iter().try_for_each(|(size, rounds)| one_size(device, name, size, attrs, rounds))
}

/// Allocates and frees `size` bytes over and over.
pub fn one_size(
    device: &Arc<Device>,
    name: &str,
    size: u64,
    attrs: Attrs,
    rounds: usize,
) -> Result<(), DmaError> {
    let mut measured = Measured::new(rounds, || dma::alloc(device, size, attrs), drop)?;
    let subject = Subject { name, size, attrs, ..Subject::of_buffer(device, size, attrs)? };
    subject.print(&mut measured);
    Ok(())
}
