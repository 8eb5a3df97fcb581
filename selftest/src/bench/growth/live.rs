//! Cost by the number of live buffers: one size, while an increasing number of others stays allocated.

use super::ATTRS;
use crate::bench::line::BenchLine;
use crate::bench::measure::Timings;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::PAGE_SIZE;
use dma_api::DmaError;
use kernel::dma::{self, Attachment, Device};

const COUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 64;
/// The second measured size.
const LARGER: u64 = 64 << 10;

/// Measures the allocation and the release of a page and of a larger buffer, beside live buffers of one page.
pub fn live(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut others: Vec<Attachment> = Vec::with_capacity(COUNTS[COUNTS.len() - 1]);
    for count in COUNTS {
        while others.len() < count {
            others.push(dma::alloc(device, PAGE_SIZE, ATTRS)?);
        }
        for size in [PAGE_SIZE, LARGER] {
            let mut timings = Timings::measure(ROUNDS, || dma::alloc(device, size, ATTRS), drop)?;
            let parameter = Some(("live", count as u64));
            let line =
                BenchLine { name: "growth_live", parameter, ..BenchLine::of_buffer(device, size, ATTRS)? };
            line.print(&mut timings);
        }
    }
    Ok(())
}
