//! The state in which firmware handed the machine over: the exception level of entry, and the PSCI conduit.

use arch::psci::Conduit;
use core::sync::atomic::{AtomicU8, Ordering};
use spin::Once;

static ENTRY_LEVEL: AtomicU8 = AtomicU8::new(0);
static PSCI: Once<Conduit> = Once::new();

/// Records the exception level of entry.
pub fn set_entry_level(level: u8) {
    ENTRY_LEVEL.store(level, Ordering::Relaxed);
}

/// Returns the exception level at which the loader entered the kernel.
pub fn entry_level() -> u8 {
    ENTRY_LEVEL.load(Ordering::Relaxed)
}

/// Records how PSCI is called (SMC or HVC).
pub fn set_psci(conduit: Conduit) {
    PSCI.call_once(|| conduit);
}

/// Returns how PSCI is called; `None` on a machine without PSCI.
pub fn psci() -> Option<Conduit> {
    PSCI.get().copied()
}
