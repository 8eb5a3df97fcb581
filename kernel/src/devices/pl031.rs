//! The driver of Arm's real-time clock PL031, which is read once, at boot.

use super::driver::{ProbeError, Probed};
use super::platform::{PlatformDriver, PlatformProbe};
use crate::board::NodeError;
use crate::sched;
use drivers::mmio::Mmio;
use drivers::pl031::{self, Registers};

pub static DRIVER: PlatformDriver = PlatformDriver { name: "rtc", compatible: &["arm,pl031"], probe };

fn probe(probed: &PlatformProbe<'_>) -> Probed {
    let registers = probed.device.registers;
    if registers.len() < size_of::<Registers>() as u64 {
        return Err(ProbeError::Node(NodeError::Malformed("reg")));
    }
    // SAFETY: a real-time clock according to the device tree; only its registers are read.
    let at = unsafe { probed.map(registers) }?;
    // SAFETY: mapped permanently as Device memory, long enough (above); no other driver uses them.
    let registers: Mmio<Registers> = unsafe { Mmio::new(at.start()) };
    let seconds = pl031::read(&registers).ok_or_else(|| ProbeError::device("the clock is stopped"))?;
    sched::time::set_realtime(seconds);
    log::info!("rtc: {seconds} seconds since 1970");
    Ok(None)
}
