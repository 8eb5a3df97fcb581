//! FEAT_MOPS from a program: the Memory Copy and Memory Set exception restarts the sequence.

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// Linux's `HWCAP2_MOPS`.
const HWCAP2_MOPS: u64 = 1 << 43;

/// A memory set that continues with the registers of the option that this CPU does not implement, as after a
/// move to another CPU. Without the hardware capability the probe passes.
pub fn restarts(_: &[String]) -> ProbeResult {
    const MARGIN: usize = 100;
    if raw::auxiliary(libc::AT_HWCAP2) & HWCAP2_MOPS == 0 {
        println!("  no FEAT_MOPS");
        return Ok(());
    }
    for at_epilogue in [false, true] {
        let mut memory = vec![0xa5; 3 * 4096 + 2 * MARGIN];
        let end = memory.len() - MARGIN;
        fill_from_other_option(&mut memory[MARGIN..end], 0x5a, at_epilogue);
        let expected = |at: usize| if (MARGIN..end).contains(&at) { 0x5a } else { 0xa5 };
        let wrong = (0..memory.len()).find(|at| memory[*at] != expected(*at));
        ensure(wrong.is_none(), || format!("byte {wrong:?} is wrong, resumed at SETE: {at_epilogue}"))?;
    }
    Ok(())
}

/// Fills `memory` with `byte` by SETP; the sequence resumes at SETM or SETE with the state converted: option
/// A has the end and minus the bytes left (PSTATE.C is 0), option B the next address and the bytes left (C is
/// 1).
#[cfg(target_arch = "aarch64")]
fn fill_from_other_option(memory: &mut [u8], byte: u64, at_epilogue: bool) {
    // SAFETY: writes only `memory`.
    unsafe {
        std::arch::asm!(
            ".arch_extension mops",
            "setp [{at}]!, {left}!, {byte}",
            "add {at}, {at}, {left}",
            "neg {left}, {left}",
            "mov {flags}, #(1 << 29)",
            "csel {flags}, xzr, {flags}, cs",
            "msr nzcv, {flags}",
            "tbnz {epilogue:w}, #0, 3f",
            "b 2f",
            "setp [{at}]!, {left}!, {byte}",
            "2: setm [{at}]!, {left}!, {byte}",
            "3: sete [{at}]!, {left}!, {byte}",
            at = inout(reg) memory.as_mut_ptr() => _,
            left = inout(reg) memory.len() => _,
            byte = in(reg) byte,
            flags = out(reg) _,
            epilogue = in(reg) u32::from(at_epilogue),
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn fill_from_other_option(memory: &mut [u8], byte: u64, _: bool) {
    memory.fill(byte as u8);
}
