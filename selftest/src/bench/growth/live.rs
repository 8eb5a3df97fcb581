//! With live buffers: one size, while more and more others of the same size stay allocated.

use super::ATTRS;
use crate::bench::line::Subject;
use crate::bench::measure::Measured;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::PAGE_SIZE;
use dma_api::DmaError;
use kernel::dma::{self, Attachment, Device};

const COUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 64;
/// The other size that is measured next to them.
const LARGER: u64 = 64 << 10;

/// Measures an alloc and a free of a page, and of a larger buffer, next to so many live ones of a page.
pub fn live(device: &Arc<Device>) -> Result<(), DmaError> {
    let mut living: Vec<Attachment> = Vec::with_capacity(COUNTS[COUNTS.len() - 1]);
    for count in COUNTS {
        while living.len() < count {
            living.push(dma::alloc(device, PAGE_SIZE, ATTRS)?);
        }
        for size in [PAGE_SIZE, LARGER] {
            let mut measured = Measured::new(ROUNDS, || dma::alloc(device, size, ATTRS), drop)?;
            let at = Some(("live", count as u64));
            let subject = Subject { name: "growth_live", at, ..Subject::of_buffer(device, size, ATTRS)? };
            subject.print(&mut measured);
        }
    }
    Ok(())
}
