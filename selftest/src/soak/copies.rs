//! DMA of the second device: copies through it, accesses to an unmapped address, and quarantines.

use super::rng::Rng;
use super::round::Tally;
use crate::cases::device::{peek, poke, read_in, write_out};
use crate::fixture::TIMEOUT_NS;
use addr::{Iova, PAGE_SIZE};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::timer::Deadline;
use dma_api::Attrs;
use drivers::poll::poll_until;
use kernel::devices::{self, dma_engine::DmaEngineDevice};
use kernel::dma::{self, Attachment};
use kernel::sched::{self, time};

/// The first page, which no domain allocates; any other may belong to a buffer of a worker.
const UNMAPPED: Iova = Iova::new(0);
/// Pages of a buffer.
const PAGES: u64 = 64;

/// Copies and faults until `end`; returns immediately without a second device behind an SMMU.
pub fn run(mut rng: Rng, end: u64) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let Some(edu) = devices::dma_engines().nth(1).filter(|edu| edu.device().smmu().is_some()) else {
        return Ok(tally);
    };
    while time::now() < end {
        let before = edu.device().service_total_faults();
        match rng.below(8) {
            0 => write_out(edu, UNMAPPED + rng.below(64) * 4, 4 + rng.below(60))?,
            1 => {
                quarantine(edu)?;
                tally.quarantines += 1;
            }
            _ => {
                copy(edu, &mut rng)?;
                tally.copies += 1;
            }
        }
        tally.faults += edu.device().service_total_faults() - before;
    }
    Ok(tally)
}

/// Copies random bytes within a buffer through the device and compares them.
fn copy(edu: &DmaEngineDevice, rng: &mut Rng) -> Result<(), String> {
    let attrs = rng.pick(&[Attrs::empty(), Attrs::ALLOC_SINGLE_PAGES]) | Attrs::NO_KERNEL_MAPPING;
    let Ok(buffer) = dma::alloc(edu.device(), PAGES * PAGE_SIZE, attrs) else {
        sched::yield_now();
        return Ok(());
    };
    let len = 1 + rng.below(PAGE_SIZE);
    let (from, to) = (random_offset(rng, len, 0), random_offset(rng, len, PAGES / 2));
    let sent: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
    poke(&buffer, from, &sent);
    read_in(edu, iova_at(&buffer, from), len)?;
    write_out(edu, iova_at(&buffer, to), len)?;
    let received = peek(&buffer, to, len as usize);
    if received == sent {
        Ok(())
    } else {
        Err(format!("copy of {len} bytes from {from:#x} to {to:#x} differs from its source"))
    }
}

/// Returns a random offset of `len` bytes in the half of the buffer that starts at `first_page`.
fn random_offset(rng: &mut Rng, len: u64, first_page: u64) -> u64 {
    first_page * PAGE_SIZE + rng.below(PAGES / 2 * PAGE_SIZE - len)
}

fn iova_at(buffer: &Attachment, offset: u64) -> Iova {
    buffer.range().start() + offset
}

/// Faults until the device is quarantined, and rearms it.
fn quarantine(edu: &DmaEngineDevice) -> Result<(), String> {
    let deadline = Deadline::in_ns(TIMEOUT_NS);
    let fault = || match write_out(edu, UNMAPPED, PAGE_SIZE) {
        Ok(()) => edu.device().is_quarantined().then_some(Ok(())),
        Err(error) => Some(Err(error)),
    };
    let in_time = poll_until(|| deadline.passed(), fault);
    in_time
        .map_err(|_| format!("device not quarantined after {} faults", edu.device().service_faults()))??;
    edu.device().rearm().map_err(|error| error.to_string())
}
