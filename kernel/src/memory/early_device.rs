//! Devices that are used before the kernel's own tables exist: the console's UART and the watchdog.

use super::vmalloc::{self, MapRegistersError};
use crate::sync::SpinLock;
use addr::{AddrRange, KernelVa, PhysAddr};
use arch::boot;

/// A driver whose registers are mapped by boot's tables first, and by the kernel's own tables after [`remap`](Self::remap).
pub struct EarlyDevice<T>(SpinLock<Option<Opened<T>>>);

struct Opened<T> {
    driver: T,
    registers: AddrRange<PhysAddr>,
    open: OpenDriver<T>,
}

/// Makes the driver of the registers at an address.
///
/// # Safety
/// The registers are mapped as Device memory while the driver lives, and nothing else drives them.
pub type OpenDriver<T> = unsafe fn(KernelVa) -> T;

impl<T> EarlyDevice<T> {
    #[expect(clippy::new_without_default, reason = "made in statics only")]
    pub const fn new() -> Self {
        Self(SpinLock::new(None))
    }

    /// Opens the driver on boot's mapping. Requires that boot's tables are in use.
    ///
    /// # Safety
    /// `registers` belong to a device of the kind that `open` drives, and nothing else drives it.
    pub unsafe fn open(&self, registers: AddrRange<PhysAddr>, open: OpenDriver<T>) {
        let at = boot::map_early_device(registers.start());
        // SAFETY: the device is the caller's promise; `remap` replaces the driver when boot's tables go.
        let driver = unsafe { open(at) };
        *self.0.lock() = Some(Opened { driver, registers, open });
    }

    /// Opens the driver again on a mapping in the kernel's own tables, which do not have boot's. Must be called as soon as
    /// they are in use; the driver must not be used in between.
    ///
    /// # Errors
    /// The registers cannot be mapped; the driver is closed.
    pub fn remap(&self) -> Result<(), MapRegistersError> {
        let mut device = self.0.lock();
        let Some(Opened { registers, open, .. }) = device.take() else { return Ok(()) };
        let at = vmalloc::map_known_registers(registers)?.start();
        // SAFETY: the device is the promise of `open`'s caller, and its first driver is gone; registers stay mapped.
        let driver = unsafe { open(at) };
        *device = Some(Opened { driver, registers, open });
        Ok(())
    }

    /// Runs `f` with the driver, locked. Returns `None` if it is not open.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().as_mut().map(|opened| f(&mut opened.driver))
    }

    /// Returns whether the driver is open; `None` while it is locked.
    pub fn try_is_open(&self) -> Option<bool> {
        self.0.try_lock().map(|opened| opened.is_some())
    }

    /// Runs `f` with the driver, without locking.
    ///
    /// # Safety
    /// No other reference to the driver is used any more.
    pub unsafe fn with_unlocked<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SAFETY: passed on to the caller.
        let opened = unsafe { (*self.0.as_ptr()).as_mut() };
        opened.map(|opened| f(&mut opened.driver))
    }
}

/// Returns whether a device answers at `registers`. Requires that boot's tables are in use.
pub fn is_present(registers: AddrRange<PhysAddr>) -> bool {
    arch::probe::read_u32(boot::map_early_device(registers.start())).is_some()
}
