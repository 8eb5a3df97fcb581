//! Power off through the firmware (PSCI), a watchdog or an embedded controller.

use crate::board::Platform;
use crate::memory::early_device::{self, EarlyDevice};
use crate::{console, firmware, kprintln};
use addr::{AddrRange, KernelVa, PhysAddr};
use arch::monitor::NotSupported;
use arch::timer::Deadline;
use drivers::bcm2835::watchdog::Watchdog;
use drivers::mmio::Mmio;
use spin::Once;

/// The timeout of the watchdog's reset.
const WATCHDOG_NS: u64 = 100_000_000;

static WATCHDOG: EarlyDevice<Watchdog> = EarlyDevice::new();
/// The command register of the embedded controller, accessible in the Secure state only.
static EMBEDDED_CONTROLLER: Once<PhysAddr> = Once::new();

/// The power-off command of the embedded controller of QEMU's `sbsa-ref`.
const POWER_OFF: u32 = 1;

/// Finds the power-off method, for use by all later failures. A watchdog is mapped in the early page tables
/// until [`remap`].
pub fn init(platform: &Platform) {
    if let Some(conduit) = platform.psci {
        firmware::set_psci(conduit);
    }
    if let Some(controller) = platform.embedded_controller.filter(|_| firmware::entry_level() == 3) {
        EMBEDDED_CONTROLLER.call_once(|| controller);
    }
    // SAFETY: a BCM2835 power manager by the device tree, whose registers can be read at any time.
    let is_present = |registers: &AddrRange<PhysAddr>| unsafe { early_device::is_present(*registers) };
    if let Some(registers) = platform.watchdog.filter(is_present) {
        // SAFETY: the device tree describes a BCM2835 power manager; only this module drives it.
        unsafe { WATCHDOG.open(registers, open_watchdog) };
    }
}

/// Maps the watchdog in the kernel's own page tables; see [`EarlyDevice::remap`].
pub fn remap(platform: &Platform) {
    let Some(registers) = platform.watchdog else { return };
    match (WATCHDOG.remap(), WATCHDOG.try_is_open()) {
        (Err(error), _) => log::warn!("watchdog: ignored: {error}"),
        (_, Some(false)) => log::warn!("watchdog: ignored: no device responds at {}", registers.start()),
        _ => {}
    }
}

/// # Safety
/// As for [`OpenDriver`](early_device::OpenDriver), for a BCM2835 power manager.
unsafe fn open_watchdog(at: KernelVa) -> Watchdog {
    // SAFETY: passed on to the caller.
    Watchdog::new(unsafe { Mmio::new(at) })
}

/// Powers the machine off; without a power-off method, halts this CPU.
pub fn off() -> ! {
    match firmware::psci().map(arch::psci::system_off) {
        Some(Ok(())) => {}
        psci_result => {
            if WATCHDOG.with(reset).is_none() {
                off_without_watchdog(psci_result.and_then(Result::err));
            }
        }
    }
    arch::cpu::halt()
}

fn off_without_watchdog(psci_error: Option<arch::psci::Error>) {
    match (psci_error, EMBEDDED_CONTROLLER.get().map(|&at| secure_power_off(at))) {
        (Some(error), _) => log::error!("power off: the firmware returns an error ({error}); halted"),
        (None, Some(Ok(()))) => {}
        _ => log::error!("power off: no PSCI, no watchdog; halted"),
    }
}

fn secure_power_off(controller: PhysAddr) -> Result<(), NotSupported> {
    // SAFETY: `controller` is the command register of the embedded controller, which is not RAM.
    unsafe { arch::monitor::write32(controller, POWER_OFF) }
}

/// Resets the machine with the request to stay off. Returns if the reset does not happen within the timeout.
fn reset(watchdog: &mut Watchdog) {
    watchdog.power_off();
    let deadline = Deadline::in_ns(WATCHDOG_NS);
    // No `poll_until`: a reset has no condition to poll.
    while !deadline.passed() {
        arch::cpu::yield_now();
    }
    log::error!("power off: the watchdog does not reset the machine; halted");
}

/// Prints a fatal error at any log level, and powers the machine off.
pub fn fail(error: &dyn core::fmt::Display) -> ! {
    kprintln!("error: {error}");
    console::flush();
    off()
}
