//! The code of the vDSO, a shared object that the kernel maps into each program.

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("vdso.s"), options(raw));

/// Returns the code: the offsets of its four functions and of its data in 32-bit words, the functions in the
/// order of `vdso.s`, and three words of 64 bits for the counter's frequency and the real time at its start.
#[cfg(target_os = "none")]
pub fn code() -> &'static [u8] {
    unsafe extern "C" {
        static vdso_start: u8;
        static vdso_end: u8;
    }
    let (start, end) = (&raw const vdso_start, &raw const vdso_end);
    // SAFETY: the bytes between these symbols are the section of `vdso.s`, which is never written.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The host's code: four functions without instructions, and the data.
#[cfg(not(target_os = "none"))]
pub fn code() -> &'static [u8] {
    const CODE: [u8; 64] = {
        let mut code = [0; 64];
        (code[0], code[4], code[8], code[12], code[16]) = (20, 24, 28, 32, 40);
        code
    };
    &CODE
}
