//! Devices that are used before the kernel's own page tables exist: the console UART and the watchdog.

use super::vmalloc::{self, MapRegistersError};
use crate::sync::SpinLock;
use addr::{AddrRange, KernelVa, PhysAddr};
use arch::boot;

/// A driver whose registers are mapped in the early tables first, and in the kernel's own after
/// [`remap`](Self::remap).
pub struct EarlyDevice<T>(SpinLock<Option<Opened<T>>>);

struct Opened<T> {
    driver: T,
    registers: AddrRange<PhysAddr>,
    open: OpenDriver<T>,
}

/// Creates the driver of the registers at an address.
///
/// # Safety
/// The registers are mapped as Device memory while the driver lives, and nothing else drives them.
pub type OpenDriver<T> = unsafe fn(KernelVa) -> T;

impl<T> EarlyDevice<T> {
    #[expect(clippy::new_without_default, reason = "only used in statics")]
    pub const fn new() -> Self {
        Self(SpinLock::new(None))
    }

    /// Opens the driver on an early mapping. The early tables must be in use.
    ///
    /// # Safety
    /// `registers` belong to a device of the kind that `open` drives, and nothing else drives it.
    pub unsafe fn open(&self, registers: AddrRange<PhysAddr>, open: OpenDriver<T>) {
        // SAFETY: only registers of the device are accessed.
        let at = unsafe { boot::map_early_device(registers.start()) };
        // SAFETY: the caller vouches for the device; `remap` replaces the driver when the early tables are
        // gone.
        let driver = unsafe { open(at) };
        *self.0.lock() = Some(Opened { driver, registers, open });
    }

    /// Opens the driver again on a mapping in the kernel's own tables, which do not include the early
    /// mappings. Must be called as soon as they are in use; the driver must not be used in between.
    ///
    /// # Errors
    /// The registers cannot be mapped; the driver is closed.
    pub fn remap(&self) -> Result<(), MapRegistersError> {
        let mut device = self.0.lock();
        let Some(Opened { registers, open, .. }) = device.take() else { return Ok(()) };
        let at = vmalloc::map_known_registers(registers)?.start();
        // SAFETY: the caller of `open` vouched for the device, and its first driver is gone; registers stay
        // mapped.
        let driver = unsafe { open(at) };
        *device = Some(Opened { driver, registers, open });
        Ok(())
    }

    /// Runs `f` with the locked driver. Returns `None` if it is not open.
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
    /// No other reference to the driver is in use.
    pub unsafe fn with_unlocked<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SAFETY: passed on to the caller.
        let opened = unsafe { (*self.0.as_ptr()).as_mut() };
        opened.map(|opened| f(&mut opened.driver))
    }
}

/// Returns whether a device responds at `registers`. The early tables must be in use.
///
/// # Safety
/// `registers` belong to a device, and a read of the first has no side effect.
pub unsafe fn is_present(registers: AddrRange<PhysAddr>) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { arch::probe::read_u32(boot::map_early_device(registers.start())) }.is_some()
}
