//! PACGA, which EL3 and EL2 trap unless they are told not to.

use crate::result::{ProbeResult, ensure};

/// Computes a pointer authentication code, with the arguments of the secure monitor in x0 to x2: a trap
/// handler that does not check the exception class writes to memory instead. Requires FEAT_PAuth.
pub fn generic_code(_: &[String]) -> ProbeResult {
    let code = pacga();
    ensure(code & 0xffff_ffff == 0, || format!("PACGA returned {code:#x}"))
}

#[cfg(target_arch = "aarch64")]
fn pacga() -> u64 {
    // The function ID of the monitor (arch/src/monitor.rs), and the data register of virt's first UART.
    let (function, address, value) = (0xc300_5401_u64, 0x900_0000_u64, u64::from(b'!'));
    let code: u64;
    // SAFETY: an instruction on registers.
    unsafe {
        std::arch::asm!(
            ".arch_extension pauth",
            "pacga {code}, x1, x2",
            code = lateout(reg) code,
            in("x0") function,
            in("x1") address,
            in("x2") value,
            options(nomem, nostack),
        );
    }
    code
}

#[cfg(not(target_arch = "aarch64"))]
fn pacga() -> u64 {
    0
}
