//! Cache maintenance by kernel virtual address (D7.5).
//!
//! `clean` ends with the barrier that completes it; `clean_lines` does not, so that a caller can issue one
//! [`barrier::dsb_sy`] for a list of ranges. The same holds for the other operations. Ranges are widened to
//! whole cache lines: the caller of an invalidation must own the first and the last line entirely.
//!
//! The range must be mapped as Normal memory. A fault here is a kernel fault.

use crate::barrier;
use addr::{AddrRange, KernelVa};

/// Writes dirty lines of `range` back to the point of coherency, where non-coherent devices observe them.
/// Complete on return.
pub fn clean(range: AddrRange<KernelVa>) {
    clean_lines(range);
    barrier::dsb_sy();
}

/// Discards the cached lines of `range`, so that later loads observe the writes of a device. Complete on
/// return. While a cacheable mapping exists, speculation may allocate lines again.
///
/// # Safety
/// Dirty data in the lines of `range` is lost. No code may depend on it.
pub unsafe fn invalidate(range: AddrRange<KernelVa>) {
    // SAFETY: the caller's promise.
    unsafe { invalidate_lines(range) };
    barrier::dsb_sy();
}

/// Cleans and invalidates the lines of `range`. Required before a change of the memory type.
pub fn clean_invalidate(range: AddrRange<KernelVa>) {
    clean_invalidate_lines(range);
    barrier::dsb_sy();
}

/// Makes earlier stores to `range` visible to instruction fetches, through any alias. Another CPU must
/// execute an ISB or an exception return before it executes the new code; this CPU executes an ISB here.
pub fn sync_instructions(range: AddrRange<KernelVa>) {
    line::sync_instructions(range);
}

/// [`clean`] without the barrier. Complete after a [`barrier::dsb_sy`] of the caller.
pub fn clean_lines(range: AddrRange<KernelVa>) {
    line::clean(range);
}

/// [`invalidate`] without the barrier. Complete after a [`barrier::dsb_sy`] of the caller.
///
/// # Safety
/// As for [`invalidate`].
pub unsafe fn invalidate_lines(range: AddrRange<KernelVa>) {
    line::invalidate(range);
}

/// [`clean_invalidate`] without the barrier. Complete after a [`barrier::dsb_sy`] of the caller.
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
                // SAFETY: reads an ID register.
                unsafe {
                    asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value,
                        options(nomem, nostack, preserves_flags));
                }
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

    /// Calls `each` with the address of every `size`-byte line that overlaps `range`.
    #[inline(always)]
    fn each_line(range: AddrRange<KernelVa>, size: u64, each: impl Fn(u64)) {
        let mut line = range.start().align_down(size).raw();
        // Unrolled: saves a fifth of the instructions of the allocation of non-cacheable memory.
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
                    // SAFETY: cleans or invalidates a line, under the contract of the calling function.
                    unsafe {
                        asm!(concat!("dc ", $instruction, ", {}"), in(reg) line,
                            options(nostack, preserves_flags));
                    }
                });
            }
        };
    }
    data_lines!(clean, "cvac");
    data_lines!(invalidate, "ivac");
    data_lines!(clean_invalidate, "civac");
    data_lines!(clean_to_unification, "cvau");

    /// CTR_EL0.IDC and DIC report steps that the hardware does not need (D7.5.9). With a VIPT instruction
    /// cache (CTR_EL0.L1Ip), IC IVAU does not reach the lines of other aliases.
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
                // SAFETY: an instruction cache holds no dirty data.
                unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
            } else {
                each_line(range, instruction_line(), |line| {
                    // SAFETY: an instruction cache holds no dirty data.
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
    fn maintenance_ends_with_dsb() {
        let some = AddrRange::new(KernelVa::new(0x1000), KernelVa::new(0x3000));
        clean(some);
        clean_invalidate(some);
        // SAFETY: no memory is accessed on a host.
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
    fn list_of_ranges_takes_one_barrier() {
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
