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
    );

    unsafe extern "C" {
        fn probe_load_32(at: u64) -> i64;
    }

    pub(super) fn read(at: u64) -> Option<u32> {
        // SAFETY: a load whose abort is caught.
        u32::try_from(unsafe { probe_load_32(at) }).ok()
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    /// A host's memory is not the kernel's business.
    pub(super) fn read(_: u64) -> Option<u32> {
        None
    }
}
