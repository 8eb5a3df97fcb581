//! Reading where perhaps nothing answers: what a loader or a device tree only claims to be there.

use addr::KernelVa;

/// The 32-bit word at `at`, which is a multiple of 4; `None` when the read ends in a synchronous abort: nothing is
/// mapped there, or nothing answers at the physical address behind it. (A system that reports the latter as an SError
/// cannot be asked.)
///
/// The caller answers for what the read does to a device.
pub fn read_u32(at: KernelVa) -> Option<u32> {
    target::read(at.raw())
}

#[cfg(target_os = "none")]
mod target {
    // An entry of .fixups (user_copy.s) lets the load's abort go on behind it, with an impossible value.
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
        // SAFETY: sets 0 bytes; that the instructions are undefined is caught.
        unsafe { probe_memory_set() != 0 }
    }

    pub(super) fn read(at: u64) -> Option<u32> {
        // SAFETY: a load whose abort is caught.
        u32::try_from(unsafe { probe_load_32(at) }).ok()
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::executes_memory_set;

#[cfg(not(target_os = "none"))]
mod target {
    /// A host's memory is not the kernel's business.
    pub(super) fn read(_: u64) -> Option<u32> {
        None
    }
}
