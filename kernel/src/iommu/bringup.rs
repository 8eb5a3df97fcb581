//! Bring-up of the SMMUs: first all transactions are aborted, later each SMMU is reset and enabled.

use super::smmu::{self, Smmu};
use crate::board;
use crate::irq;
use crate::memory::vmalloc::{self, MapRegistersError};
use alloc::boxed::Box;
use core::fmt;
use core::ops::RangeInclusive;
use drivers::mmio::Mmio;
use drivers::pcie::Phandle;
use drivers::smmu::{Clock, Features, FirmwareState, Registers, StartError, Unsupported};
use smmu_spec::WalkCoherency;

/// The number of events that a device can cause before the queue is drained: under QEMU, a page-sized access
/// to an unmapped page, in pieces of four bytes. A full queue may lose the first event of a stream.
pub const EVENTS_PER_DEVICE: u64 = 1024;
/// The bounds of the event queue's entries: 64 KiB and 2 MiB.
const EVENT_QUEUE_ENTRIES: RangeInclusive<u64> = 1 << 11..=1 << 16;

/// The reason why an SMMU is not used.
#[derive(Debug)]
enum OpenError {
    /// The implementation, and why the driver does not support it.
    Implementation(&'static str),
    Map(MapRegistersError),
    Unsupported(Unsupported),
    Start(StartError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Implementation(reason) => write!(f, "not supported: {reason}"),
            Self::Map(error) => error.fmt(f),
            Self::Unsupported(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
        }
    }
}

/// Makes every SMMU abort all transactions, in any firmware state, and logs that state. Must be called before
/// any memory is allocated for a new owner, while the early tables are active.
pub fn abort_all(descriptions: &[board::SmmuDescription]) {
    for description in descriptions {
        let at = description.registers.start();
        // SAFETY: only registers of the SMMU are accessed.
        let registers = unsafe { arch::boot::map_early_device(at) };
        // SAFETY: SMMU_IDR0, which is read-only, by the device tree.
        if unsafe { arch::probe::read_u32(registers) }.is_none() {
            log::warn!("smmu at {at}: no response");
            continue;
        }
        // SAFETY: mapped as Device memory for longer than this value lives; the device tree names an SMMU
        // there, of which only page 0 is used: 64 KiB, aligned, so in the 2 MiB that are mapped; nothing else
        // uses it yet.
        let registers = unsafe { Mmio::<Registers>::new(registers) };
        match drivers::smmu::abort_all(&registers, Clock::system()) {
            Ok(FirmwareState::Bypassed) => log::info!("smmu at {at}: was in bypass, aborts now"),
            Ok(FirmwareState::Translated) => {
                log::warn!("smmu at {at}: was enabled by an earlier stage, aborts now")
            }
            Ok(FirmwareState::Aborted) => {}
            Err(error) => log::warn!("smmu at {at}: may still pass transactions: {error}"),
        }
    }
}

/// Resets and enables the SMMUs; every stream aborts until it is attached. An SMMU that cannot be used is
/// skipped with a warning, and so are the devices behind it. `devices` returns the number of devices behind
/// an SMMU: the event queue is sized for their events, but has at most `max_events` entries.
pub fn init(
    descriptions: &[board::SmmuDescription],
    devices: impl Fn(Phandle) -> u64,
    max_events: Option<u64>,
) {
    let start = |description: &board::SmmuDescription| {
        let devices = description.phandle.map_or(0, &devices);
        start(description, max_events.unwrap_or(u64::MAX).min(event_queue_entries(devices)))
    };
    smmu::register_all(descriptions.iter().filter_map(start).collect());
}

/// Returns the number of event queue entries, a power of two.
fn event_queue_entries(devices: u64) -> u64 {
    (devices * EVENTS_PER_DEVICE)
        .clamp(*EVENT_QUEUE_ENTRIES.start(), *EVENT_QUEUE_ENTRIES.end())
        .next_power_of_two()
}

fn start(description: &board::SmmuDescription, events: u64) -> Option<&'static Smmu> {
    let at = description.registers.start();
    let smmu: &Smmu = match open(description, events) {
        Ok(smmu) => Box::leak(Box::new(smmu)),
        Err(error) => {
            log::warn!("smmu at {at}: {error}");
            return None;
        }
    };
    let interrupts = [description.event_queue, description.global_error, description.combined];
    for interrupt in interrupts.into_iter().flatten() {
        if let Err(error) = irq::register(interrupt, smmu) {
            log::warn!("smmu at {at}: {error}; events are reported late");
        }
    }
    log::info!("smmu at {at}: {}-bit IOVAs", smmu.features().input_bits());
    if let Some(erratum) = smmu.features().erratum {
        log::info!("smmu at {at}: {} with a workaround for erratum {}", erratum.product, erratum.number);
    }
    Some(smmu)
}

fn open(description: &board::SmmuDescription, events: u64) -> Result<Smmu, OpenError> {
    if let Some(reason) = description.unsupported {
        return Err(OpenError::Implementation(reason));
    }
    // SAFETY: an SMMU by the device tree; its first register, SMMU_IDR0, is read-only.
    let registers = unsafe { vmalloc::map_registers(description.registers) }.map_err(OpenError::Map)?;
    // SAFETY: mapped permanently as Device memory; the device tree names an SMMU there (both pages, which the
    // binding requires); this is the only user.
    let registers = unsafe { Mmio::<Registers>::new(registers.start()) };
    let mut features = Features::probe(&registers).map_err(OpenError::Unsupported)?;
    // The device tree describes the interconnect, which IDR0.COHACC may not.
    features.coherency =
        if description.coherent { WalkCoherency::Coherent } else { WalkCoherency::NonCoherent };
    features.max_event_queue_log2 = events.ilog2() as u8;
    Smmu::start(description.phandle, registers, features, Clock::system()).map_err(OpenError::Start)
}
