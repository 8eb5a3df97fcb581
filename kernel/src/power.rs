//! Switching the machine off.

use crate::board::Platform;
use crate::memory::vmalloc;
use crate::sync::SpinLock;
use crate::{console, firmware, kprintln};
use addr::{KernelVa, PhysAddr};
use arch::boot;
use arch::monitor::NotSupported;
use arch::timer::Deadline;
use drivers::bcm2835::watchdog::Watchdog;
use drivers::mmio::Mmio;
use spin::Once;

/// How long a watchdog may take to run out.
const WATCHDOG_NS: u64 = 100_000_000;

static WATCHDOG: SpinLock<Option<Watchdog>> = SpinLock::new(None);
/// The controller that the secure side asks.
static CONTROLLER: Once<PhysAddr> = Once::new();

/// The embedded controller of QEMU's `sbsa-ref`: its one register takes commands.
const POWER_OFF: u32 = 1;

/// Finds what switches the machine off, so that whatever fails from here on does. A watchdog is reached through boot's
/// own tables; [`move_to_final`] before these go.
pub fn init(platform: &Platform) {
    if let Some(conduit) = platform.psci {
        firmware::set_psci(conduit);
    }
    if let Some(controller) = platform.embedded_controller.filter(|_| firmware::entry_level() == 3) {
        CONTROLLER.call_once(|| controller);
    }
    *WATCHDOG.lock() = platform.watchdog.map(|registers| open(boot::map_early_device(registers.start())));
}

/// Maps the watchdog where it stays. Called as soon as the kernel's own tables are in use; nothing may fail in between.
pub fn move_to_final(platform: &Platform) {
    let Some(registers) = platform.watchdog else { return };
    let mapped = vmalloc::map_registers(registers);
    *WATCHDOG.lock() = mapped.as_ref().ok().map(|at| open(at.start()));
    if let Err(error) = mapped {
        log::warn!("watchdog: ignored: {error}");
    }
}

fn open(at: KernelVa) -> Watchdog {
    // SAFETY: the callers have mapped, as Device memory and for as long as the value is in `WATCHDOG`, what by the device
    // tree's word is a BCM2835's power manager, which nothing else drives.
    Watchdog::new(unsafe { Mmio::new(at) })
}

/// Switches the machine off, by the firmware or a watchdog; without either, stops this CPU.
pub fn off() -> ! {
    match (firmware::psci().map(arch::psci::system_off), WATCHDOG.lock().as_mut()) {
        (Some(Ok(())), _) => {}
        (_, Some(watchdog)) => wait_for(watchdog),
        (Some(Err(error)), None) => log::error!("power off: the firmware refuses ({error}); halted"),
        (None, None) => match CONTROLLER.get().map(|&at| secure_power_off(at)) {
            Some(Ok(())) => {}
            _ => log::error!("power off: no firmware to ask, no watchdog; halted"),
        },
    }
    arch::cpu::halt()
}

fn secure_power_off(controller: PhysAddr) -> Result<(), NotSupported> {
    // SAFETY: the register of the embedded controller.
    unsafe { arch::monitor::write32(controller, POWER_OFF) }
}

/// Ends in a reset that stays off; returns when it does not come.
fn wait_for(watchdog: &mut Watchdog) {
    watchdog.power_off();
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
