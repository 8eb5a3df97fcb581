//! With size: powers of four from a page to a gigabyte.

use super::ATTRS;
use crate::bench::alloc::one_size;
use ::alloc::sync::Arc;
use dma_api::DmaError;
use kernel::dma::Device;

const LARGEST: u64 = 1 << 30;
const ROUNDS: usize = 8;

/// Measures an alloc and a free of each size.
pub fn size(device: &Arc<Device>) -> Result<(), DmaError> {
    let sizes = (0..).map(|power| addr::PAGE_SIZE << (2 * power)).take_while(|&size| size <= LARGEST);
    sizes.into_iter().try_for_each(|size| one_size(device, "growth_size", size, ATTRS, ROUNDS))
}
