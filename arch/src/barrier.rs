//! Barrier instructions (B2.3.12). Each is also a compiler barrier for memory accesses.

/// Defines a barrier function: the instruction on the target, a log entry on the host.
macro_rules! barrier {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline]
        pub fn $name() {
            crate::counters::barrier();
            #[cfg(target_os = "none")]
            // SAFETY: a barrier changes no register and no memory; without `nomem` the compiler does not move
            // accesses across.
            unsafe {
                core::arch::asm!($instruction, options(nostack, preserves_flags));
            }
            #[cfg(not(target_os = "none"))]
            crate::fake::record(crate::fake::Instruction::Barrier(stringify!($name)));
        }
    };
}

barrier! {
    /// Earlier stores are visible to the accesses and table walks of all CPUs before any later instruction
    /// executes: required between a descriptor write and the TLBI or access that depends on it.
    dsb_ishst, "dsb ishst"
}
barrier! {
    /// [`dsb_ishst`] for the accesses and table walks of this CPU only.
    dsb_nshst, "dsb nshst"
}
barrier! {
    /// Earlier accesses, cache maintenance and TLB maintenance are complete on all CPUs before any later
    /// instruction executes.
    dsb_ish, "dsb ish"
}
barrier! {
    /// [`dsb_ish`] for this CPU only.
    dsb_nsh, "dsb nsh"
}
barrier! {
    /// Earlier accesses and maintenance are complete for the full system, devices included, before any later
    /// instruction executes.
    dsb_sy, "dsb sy"
}
barrier! {
    /// Devices observe earlier stores before later stores: descriptors before the doorbell.
    dmb_oshst, "dmb oshst"
}
barrier! {
    /// Earlier loads complete before later accesses, with respect to devices: a completion flag before the
    /// data.
    dmb_oshld, "dmb oshld"
}
barrier! {
    /// All CPUs observe earlier accesses before later accesses.
    dmb_ish, "dmb ish"
}
barrier! {
    /// Later instructions are fetched after the effects of earlier changes to system registers and
    /// translations.
    isb, "isb"
}
