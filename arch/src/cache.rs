//! Data and instruction caches by kernel virtual address (D7.5).
//!
//! Each function comes twice: `clean` ends with the barrier that completes it, `clean_lines` leaves that to the
//! caller, who issues one [`barrier::dsb_sy`] for a whole list. A range is widened to whole cache lines, so the
//! caller of an invalidation must own the lines at both ends entirely.
//!
//! The range must be mapped, and not as Device: a fault here is a kernel fault.

use crate::barrier;
use addr::{AddrRange, KernelVa};

/// What the CPU wrote in `range` is in memory, where devices that do not snoop see it, before anything later
/// executes.
pub fn clean(range: AddrRange<KernelVa>) {
    clean_lines(range);
    barrier::dsb_sy();
}

/// No cache holds a copy of `range` any more, so the next load sees what a device wrote. Speculation may fetch
/// lines again as long as a cacheable mapping exists.
///
/// # Safety
/// What was written to the range's lines and not cleaned is lost: nobody may need it.
pub unsafe fn invalidate(range: AddrRange<KernelVa>) {
    // SAFETY: the same promise.
    unsafe { invalidate_lines(range) };
    barrier::dsb_sy();
}

/// [`clean`], and no cache holds a copy any more: what precedes a change of memory type.
pub fn clean_invalidate(range: AddrRange<KernelVa>) {
    clean_invalidate_lines(range);
    barrier::dsb_sy();
}

/// Instruction fetches on all CPUs see what was written to `range`, through whatever address they fetch it,
/// once they have passed an ISB or an exception return; this CPU has.
pub fn sync_instructions(range: AddrRange<KernelVa>) {
    line::sync_instructions(range);
}

/// [`clean`] without its barrier: complete only after the caller's [`barrier::dsb_sy`].
pub fn clean_lines(range: AddrRange<KernelVa>) {
    line::clean(range);
}

/// [`invalidate`] without its barrier: complete only after the caller's [`barrier::dsb_sy`].
///
/// # Safety
/// As for [`invalidate`].
pub unsafe fn invalidate_lines(range: AddrRange<KernelVa>) {
    line::invalidate(range);
}

/// [`clean_invalidate`] without its barrier: complete only after the caller's [`barrier::dsb_sy`].
pub fn clean_invalidate_lines(range: AddrRange<KernelVa>) {
    line::clean_invalidate(range);
}

#[cfg(target_os = "none")]
mod line {
    use super::*;
    use addr::Address;
    use core::arch::asm;

    /// Defines a function that reads an ID register.
    macro_rules! register {
        ($name:ident) => {
            #[inline(always)]
            fn $name() -> u64 {
                let value: u64;
                // SAFETY: reads a constant.
                unsafe { asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value, options(nomem, nostack, preserves_flags)) };
                value
            }
        };
    }
    register!(ctr_el0);

    /// Bytes of the smallest data cache line (CTR_EL0.DminLine, log2 of words).
    fn data_line() -> u64 {
        4 << (ctr_el0() >> 16 & 0xf)
    }

    /// Bytes of the smallest instruction cache line (CTR_EL0.IminLine).
    fn instruction_line() -> u64 {
        4 << (ctr_el0() & 0xf)
    }

    /// Calls `each` with the first address of every `size`-byte line that touches `range`.
    #[inline(always)]
    fn each_line(range: AddrRange<KernelVa>, size: u64, each: impl Fn(u64)) {
        let mut line = range.start().align_down(size).raw();
        // Eight at a time: a loop costs as much as two lines.
        while range.end().raw().saturating_sub(line) >= 8 * size {
            for _ in 0..8 {
                each(line);
                line += size;
            }
        }
        while line < range.end().raw() {
            each(line);
            line += size;
        }
    }

    /// Defines a loop of one data cache instruction.
    macro_rules! data_lines {
        ($name:ident, $instruction:literal) => {
            pub fn $name(range: AddrRange<KernelVa>) {
                each_line(range, data_line(), |line| {
                    // SAFETY: writes back or drops a line, as the calling function's doc and contract say.
                    unsafe { asm!(concat!("dc ", $instruction, ", {}"), in(reg) line, options(nostack, preserves_flags)) }
                });
            }
        };
    }
    data_lines!(clean, "cvac");
    data_lines!(invalidate, "ivac");
    data_lines!(clean_invalidate, "civac");
    data_lines!(clean_to_unification, "cvau");

    /// CTR_EL0 says what of this the hardware does by itself (D7.5.9: IDC, DIC), and whether fetches through
    /// another address could hit lines that IC IVAU by this one leaves (L1Ip VIPT).
    pub fn sync_instructions(range: AddrRange<KernelVa>) {
        const L1IP: u64 = 0b11 << 14;
        const VIPT: u64 = 0b10 << 14;
        const IDC: u64 = 1 << 28;
        const DIC: u64 = 1 << 29;
        if ctr_el0() & IDC == 0 {
            clean_to_unification(range);
        }
        barrier::dsb_ish();
        if ctr_el0() & DIC == 0 {
            if ctr_el0() & L1IP == VIPT {
                // SAFETY: drops copies of memory.
                unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
            } else {
                each_line(range, instruction_line(), |line| {
                    // SAFETY: drops a copy of memory.
                    unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) }
                });
            }
            barrier::dsb_ish();
        }
        barrier::isb();
    }
}

#[cfg(not(target_os = "none"))]
mod line {
    use super::*;
    use crate::fake::{Instruction, record};

    pub fn clean(range: AddrRange<KernelVa>) {
        record(Instruction::Clean(range));
    }

    pub fn invalidate(range: AddrRange<KernelVa>) {
        record(Instruction::Invalidate(range));
    }

    pub fn clean_invalidate(range: AddrRange<KernelVa>) {
        record(Instruction::CleanInvalidate(range));
    }

    pub fn sync_instructions(range: AddrRange<KernelVa>) {
        record(Instruction::SyncInstructions(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Instruction};

    #[test]
    fn maintenance_is_complete_only_with_its_barrier() {
        let some = AddrRange::new(KernelVa::new(0x1000), KernelVa::new(0x3000));
        clean(some);
        clean_invalidate(some);
        // SAFETY: nothing is written there.
        unsafe { invalidate(some) };
        let end = Instruction::Barrier("dsb_sy");
        let expected = [
            Instruction::Clean(some),
            end,
            Instruction::CleanInvalidate(some),
            end,
            Instruction::Invalidate(some),
            end,
        ];
        assert_eq!(fake::take(), expected);
    }

    #[test]
    fn a_list_has_one_barrier() {
        let [a, b] = [0x1000, 0x8000].map(|at| AddrRange::new(KernelVa::new(at), KernelVa::new(at + 0x1000)));
        clean_lines(a);
        clean_lines(b);
        barrier::dsb_sy();
        assert_eq!(
            fake::take(),
            [Instruction::Clean(a), Instruction::Clean(b), Instruction::Barrier("dsb_sy")]
        );
    }
}
