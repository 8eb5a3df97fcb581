//! With fragmentation: one size, from memory that is free in pieces of one size, none of them neighbours.

use super::ATTRS;
use crate::bench::line::Subject;
use crate::bench::measure::Measured;
use crate::fixture::Fragmented;
use ::alloc::sync::Arc;
use addr::{Order, PAGE_SIZE};
use dma_api::DmaError;
use kernel::dma::{self, Device};
use memory::Reach;

const SIZE: u64 = 16 << 20;
const ROUNDS: usize = 8;

/// Measures with pieces of 2 MiB, 1 MiB, ... down to single frames.
pub fn pieces(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut order = Some(Order::BLOCK_2M);
    while let Some(now) = order {
        let _torn = Fragmented::in_pieces(Reach::HIGH, 2 * SIZE / PAGE_SIZE, now);
        let mut measured = Measured::new(ROUNDS, || dma::alloc(device, SIZE, ATTRS), drop)?;
        let at = Some(("piece", now.bytes()));
        let subject = Subject { name: "growth_pieces", at, ..Subject::of_buffer(device, SIZE, ATTRS)? };
        subject.print(&mut measured);
        order = now.smaller();
    }
    Ok(())
}
