//! Barriers (B2.3.12), named after the instruction. Each also keeps the compiler from moving memory accesses
//! across.

/// Defines one barrier function: the instruction on the target, an entry in the log on the host.
macro_rules! barrier {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline]
        pub fn $name() {
            #[cfg(feature = "counters")]
            crate::counters::barrier();
            #[cfg(target_os = "none")]
            // SAFETY: a barrier changes no register and no memory; without `nomem` the compiler orders accesses
            // too.
            unsafe {
                core::arch::asm!($instruction, options(nostack, preserves_flags));
            }
            #[cfg(not(target_os = "none"))]
            crate::fake::record(crate::fake::Instruction::Barrier(stringify!($name)));
        }
    };
}

barrier! {
    /// All earlier stores are visible to all CPUs' accesses and table walks before anything later executes: after
    /// writing a descriptor, before the TLBI or the access that uses it.
    dsb_ishst, "dsb ishst"
}
barrier! {
    /// [`dsb_ishst`] for this CPU's accesses and table walks alone.
    dsb_nshst, "dsb nshst"
}
barrier! {
    /// All earlier accesses, cache and TLB maintenance are complete on all CPUs before anything later executes.
    dsb_ish, "dsb ish"
}
barrier! {
    /// [`dsb_ish`] for this CPU alone.
    dsb_nsh, "dsb nsh"
}
barrier! {
    /// All earlier accesses and maintenance are complete for the whole system, devices included, before
    /// anything later executes.
    dsb_sy, "dsb sy"
}
barrier! {
    /// Earlier stores are seen by devices before later ones: descriptors in memory before the doorbell.
    dmb_oshst, "dmb oshst"
}
barrier! {
    /// Earlier loads are done before later accesses, devices included: a device's "done" before the data it
    /// announces.
    dmb_oshld, "dmb oshld"
}
barrier! {
    /// Earlier accesses are seen before later ones by all CPUs.
    dmb_ish, "dmb ish"
}
barrier! {
    /// What follows is fetched anew and sees all earlier changes of system registers and translation.
    isb, "isb"
}
