//! Accesses and instructions that may fault: memory whose existence only a loader or a device tree asserts,
//! and features that a hypervisor may disable.

use addr::KernelVa;

/// Reads the 32-bit word at `at`, which must be 4-byte aligned; `None` on a synchronous abort: the address is
/// not mapped, or no component responds at the physical address. (On a system that reports the latter as an
/// SError the probe does not work.)
///
/// # Safety
/// If `at` maps a device, the read has no side effect on which other code depends. If it maps memory, no
/// reference forbids the read.
pub unsafe fn read_u32(at: KernelVa) -> Option<u32> {
    // SAFETY: passed on to the caller.
    unsafe { target::read(at.raw()) }
}

#[cfg(target_os = "none")]
mod target {
    // Entries of .fixups (user_copy.s) resume after the fault, with -1 for a failed load.
    core::arch::global_asm!(
        ".text",
        ".global probe_load_32",
        "probe_load_32:",
        "1:  ldr     w0, [x0]",
        "2:  ret",
        "3:  mov     x0, #-1",
        "    ret",
        ".pushsection .fixups, \"a\"",
        ".balign 8",
        ".quad 1b, 2b, 3b",
        ".popsection",
        // A set of 0 bytes, which accesses no memory.
        ".arch_extension mops",
        ".global probe_memory_set",
        "probe_memory_set:",
        "    mov     x0, xzr",
        "    mov     x1, xzr",
        "1:  setp    [x0]!, x1!, xzr",
        "    setm    [x0]!, x1!, xzr",
        "    sete    [x0]!, x1!, xzr",
        "2:  mov     x0, #1",
        "    ret",
        "3:  mov     x0, xzr",
        "    ret",
        ".pushsection .fixups, \"a\"",
        ".balign 8",
        ".quad 1b, 2b, 3b",
        ".popsection",
    );

    unsafe extern "C" {
        fn probe_load_32(at: u64) -> i64;
        fn probe_memory_set() -> u64;
    }

    /// Whether SETP, SETM and SETE execute: at EL1 they are UNDEFINED while HCRX_EL2.MSCEn is 0.
    pub(crate) fn executes_memory_set() -> bool {
        // SAFETY: sets 0 bytes; .fixups handles an Undefined Instruction exception.
        unsafe { probe_memory_set() != 0 }
    }

    /// # Safety
    /// As for [`super::read_u32`].
    pub(super) unsafe fn read(at: u64) -> Option<u32> {
        // SAFETY: passed on to the caller; .fixups handles the abort of the load.
        u32::try_from(unsafe { probe_load_32(at) }).ok()
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::executes_memory_set;

#[cfg(not(target_os = "none"))]
mod target {
    /// No memory of a host can be probed.
    pub(super) unsafe fn read(_: u64) -> Option<u32> {
        None
    }
}
