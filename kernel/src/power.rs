//! Switching the machine off.

use crate::{console, kprintln};
use arch::psci::Conduit;
use spin::Once;

static FIRMWARE: Once<Conduit> = Once::new();

/// Says how the firmware is called; without it [`off`] can only stop.
pub fn set_firmware(conduit: Conduit) {
    FIRMWARE.call_once(|| conduit);
}

/// How the firmware is called, if there is one.
pub fn firmware() -> Option<Conduit> {
    FIRMWARE.get().copied()
}

/// Switches the machine off; where no firmware can, stops this CPU.
pub fn off() -> ! {
    match firmware().map(arch::psci::system_off) {
        Some(Ok(())) => {}
        Some(Err(error)) => log::error!("power off: the firmware refuses ({error}); halted"),
        None => log::error!("power off: no firmware to ask; halted"),
    }
    arch::cpu::halt()
}

/// Says why nothing more can be done, whatever the log level, and switches the machine off.
pub fn fail(error: &dyn core::fmt::Display) -> ! {
    kprintln!("error: {error}");
    console::flush();
    off()
}
