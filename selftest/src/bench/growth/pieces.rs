//! Cost by fragmentation: one buffer size, from free memory in non-adjacent pieces of one size.

use super::ATTRS;
use crate::bench::line::BenchLine;
use crate::bench::measure::Timings;
use crate::fixture::Fragmented;
use ::alloc::sync::Arc;
use addr::{Order, PAGE_SIZE};
use dma_api::DmaError;
use kernel::dma::{self, Device};
use memory::Reach;

const SIZE: u64 = 16 << 20;
const ROUNDS: usize = 8;

/// Measures with free pieces of 2 MiB, 1 MiB, ... down to single frames.
pub fn pieces(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut order = Some(Order::BLOCK_2M);
    while let Some(now) = order {
        let _fragmented = Fragmented::in_pieces(Reach::HIGH, 2 * SIZE / PAGE_SIZE, now);
        let mut timings = Timings::measure(ROUNDS, || dma::alloc(device, SIZE, ATTRS), drop)?;
        let parameter = Some(("piece", now.bytes()));
        let line =
            BenchLine { name: "growth_pieces", parameter, ..BenchLine::of_buffer(device, SIZE, ATTRS)? };
        line.print(&mut timings);
        order = now.smaller();
    }
    Ok(())
}
