//! Cost by buffer size: powers of four from a page to 1 GiB.

use super::ATTRS;
use crate::bench::alloc::measure_size;
use ::alloc::sync::Arc;
use dma_api::DmaError;
use kernel::dma::Device;

const LARGEST: u64 = 1 << 30;
const ROUNDS: usize = 8;

/// Measures the allocation and the release of each size.
pub fn size(device: &Arc<Device>) -> Result<(), DmaError> {
    let sizes = (0..).map(|power| addr::PAGE_SIZE << (2 * power)).take_while(|&size| size <= LARGEST);
    sizes.into_iter().try_for_each(|size| measure_size(device, "growth_size", size, ATTRS, ROUNDS))
}
