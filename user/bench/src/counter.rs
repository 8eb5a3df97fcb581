//! The virtual counter (CNTVCT_EL0).

/// Reads the counter after all preceding instructions.
#[cfg(target_arch = "aarch64")]
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter that Linux and Tessera make accessible to EL0; no other effect.
    unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// Nanoseconds, on hosts without this counter.
#[cfg(not(target_arch = "aarch64"))]
pub fn now() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
