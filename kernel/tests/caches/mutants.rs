//! Mutants of the kernel's cache maintenance; the cache model must detect each.

use super::cache_model::Mutation;
use arch::fake::Instruction;

/// A deliberate fault in the cache maintenance.
pub struct MaintenanceMutant {
    pub name: &'static str,
    pub mutation: Mutation,
}

/// All mutants; `doc/mutants.md` has the same list.
pub const MUTANTS: &[MaintenanceMutant] = &[
    MaintenanceMutant { name: "no clean before a device read", mutation: no_clean },
    MaintenanceMutant { name: "no clean and invalidate after a device write", mutation: no_clean_invalidate },
    MaintenanceMutant { name: "clean instead of clean and invalidate", mutation: clean_only },
    MaintenanceMutant { name: "invalidate instead of clean", mutation: invalidate_for_clean },
    MaintenanceMutant { name: "invalidate instead of clean and invalidate", mutation: invalidate_only },
    MaintenanceMutant { name: "no DSB after maintenance", mutation: no_dsb },
    MaintenanceMutant { name: "no TLB invalidation after an alias is unmapped", mutation: no_tlbi },
    MaintenanceMutant { name: "no local TLB invalidation after a window is unmapped", mutation: no_own_tlbi },
    MaintenanceMutant { name: "no barrier between zeroing and mapping", mutation: no_dmb },
    MaintenanceMutant { name: "maintenance of only the first line of a range", mutation: first_line },
];

fn no_clean(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::Clean(_))).then_some(instruction)
}

fn no_clean_invalidate(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::CleanInvalidate(_))).then_some(instruction)
}

fn clean_only(instruction: Instruction) -> Option<Instruction> {
    Some(if let Instruction::CleanInvalidate(range) = instruction {
        Instruction::Clean(range)
    } else {
        instruction
    })
}

fn invalidate_for_clean(instruction: Instruction) -> Option<Instruction> {
    Some(if let Instruction::Clean(range) = instruction {
        Instruction::Invalidate(range)
    } else {
        instruction
    })
}

fn invalidate_only(instruction: Instruction) -> Option<Instruction> {
    Some(if let Instruction::CleanInvalidate(range) = instruction {
        Instruction::Invalidate(range)
    } else {
        instruction
    })
}

fn no_dsb(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::Barrier("dsb_sy"))).then_some(instruction)
}

fn no_dmb(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::Barrier("dmb_oshst"))).then_some(instruction)
}

fn no_tlbi(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::TlbKernel(..))).then_some(instruction)
}

fn no_own_tlbi(instruction: Instruction) -> Option<Instruction> {
    (!matches!(instruction, Instruction::TlbLocal(_))).then_some(instruction)
}

fn first_line(instruction: Instruction) -> Option<Instruction> {
    let first =
        |range: addr::AddrRange<addr::KernelVa>| addr::AddrRange::new(range.start(), range.start() + 64);
    Some(match instruction {
        Instruction::Clean(range) => Instruction::Clean(first(range)),
        Instruction::CleanInvalidate(range) => Instruction::CleanInvalidate(first(range)),
        instruction => instruction,
    })
}
