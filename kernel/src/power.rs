//! Switching the machine off.

use crate::board::Platform;
use crate::memory::vmalloc;
use crate::sync::SpinLock;
use crate::{console, kprintln, start};
use addr::PhysAddr;
use arch::psci::Conduit;
use arch::timer::Deadline;
use drivers::bcm2835::watchdog::Watchdog;
use drivers::mmio::Mmio;
use spin::Once;

/// How long a watchdog may take to run out.
const WATCHDOG_NS: u64 = 100_000_000;

static FIRMWARE: Once<Conduit> = Once::new();
static WATCHDOG: Once<SpinLock<Watchdog>> = Once::new();
/// The controller that the secure side asks.
static CONTROLLER: Once<PhysAddr> = Once::new();

/// The embedded controller of QEMU's `sbsa-ref`: its one register takes commands.
const POWER_OFF: u32 = 1;

/// Finds what else than firmware switches the machine off. Called once the kernel's own tables are in use.
pub fn init(platform: &Platform) {
    if let Some(controller) = platform.embedded_controller.filter(|_| start::entry_level() == 3) {
        CONTROLLER.call_once(|| controller);
    }
    let Some(registers) = platform.watchdog else { return };
    match vmalloc::map_registers(registers) {
        Ok(at) => {
            // SAFETY: mapped for good as Device memory, by the device tree's word a BCM2835's power manager, which nothing
            // else drives.
            let registers = unsafe { Mmio::new(at.start()) };
            WATCHDOG.call_once(|| SpinLock::new(Watchdog::new(registers)));
        }
        Err(error) => log::warn!("watchdog: left out: {error}"),
    }
}

/// Says how the firmware is called; without it [`off`] needs a watchdog.
pub fn set_firmware(conduit: Conduit) {
    FIRMWARE.call_once(|| conduit);
}

/// How the firmware is called, if there is one.
pub fn firmware() -> Option<Conduit> {
    FIRMWARE.get().copied()
}

/// Switches the machine off, by the firmware or a watchdog; without either, stops this CPU.
pub fn off() -> ! {
    match (firmware().map(arch::psci::system_off), WATCHDOG.get()) {
        (Some(Ok(())), _) => {}
        (_, Some(watchdog)) => wait_for(watchdog),
        (Some(Err(error)), None) => log::error!("power off: the firmware refuses ({error}); halted"),
        (None, None) => match CONTROLLER.get().map(|&at| arch::secure::write32(at, POWER_OFF)) {
            Some(Ok(())) => {}
            _ => log::error!("power off: no firmware to ask, no watchdog; halted"),
        },
    }
    arch::cpu::halt()
}

/// Ends in a reset that stays off; returns when it does not come.
fn wait_for(watchdog: &SpinLock<Watchdog>) {
    watchdog.lock().power_off();
    let deadline = Deadline::in_ns(WATCHDOG_NS);
    while !deadline.passed() {
        arch::cpu::yield_now();
    }
    log::error!("power off: the watchdog does not bite; halted");
}

/// Says why nothing more can be done, whatever the log level, and switches the machine off.
pub fn fail(error: &dyn core::fmt::Display) -> ! {
    kprintln!("error: {error}");
    console::flush();
    off()
}
