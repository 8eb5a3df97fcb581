//! TLB invalidation (D8.16).
//!
//! Each function includes its barriers: DSB ISHST, so that later walks observe the preceding descriptor
//! writes; the TLBIs, broadcast to the inner shareable domain; DSB ISH, after which no CPU uses an old
//! translation and accesses through old translations are complete; ISB for this CPU. On return the unmapped
//! frames may be freed, and with [`Level::Any`] the unlinked tables.
//!
//! [`local`] is for tables that only one CPU's TTBR1 reaches. While TTBRn_EL1.CnP is 0, as here, CPUs do not
//! share TLB entries, so no broadcast is needed.

#[cfg(any(target_os = "none", test))]
mod range;

use crate::barrier;
use crate::cpu::{self, CpuFeatures};
pub use crate::tlb_level::Level;
use addr::{AddrRange, Asid, KernelVa, UserVa};

/// Invalidates the kernel translations of `range` on all CPUs.
pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
    complete(|| instruction::kernel(range, level));
}

/// Invalidates the last-level translations of `range` on this CPU. The tables of other CPUs must not map the
/// range. All CPUs observe earlier stores through the translations before later stores of this CPU.
pub fn local(range: AddrRange<KernelVa>) {
    complete_local(|| instruction::local(range));
}

/// [`local`] for a single page or block at `at`.
#[inline]
pub fn local_leaf(at: KernelVa) {
    complete_local(|| instruction::local_leaf(at));
}

/// Invalidates the non-global translations of `asid` in `range` on all CPUs.
pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
    complete(|| instruction::user(asid, range, level));
}

/// Invalidates all non-global translations of `asid` on all CPUs: required before the ASID is reused or its
/// tables are freed.
pub fn asid(asid: Asid) {
    complete(|| instruction::asid(asid));
}

/// Invalidates all translations on all CPUs.
pub fn all() {
    complete(instruction::all);
}

/// Whether the TLBI and the DSB must be followed by another pair (see [`crate::errata`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TlbiCompletion {
    /// The DSB completes all accesses through old translations.
    WithDsb,
    /// Another TLBI and DSB are needed.
    WithRepeat,
}

impl TlbiCompletion {
    fn of(features: CpuFeatures) -> Self {
        if features.contains(CpuFeatures::TLBI_COMPLETES) { Self::WithDsb } else { Self::WithRepeat }
    }
}

/// Executes `invalidate` between the barriers.
#[inline]
fn complete(invalidate: impl FnOnce() -> TlbiCompletion) {
    barrier::dsb_ishst();
    let completion = invalidate();
    barrier::dsb_ish();
    if completion == TlbiCompletion::WithRepeat {
        instruction::any();
        barrier::dsb_ish();
    }
    barrier::isb();
}

/// Executes an `invalidate` of this CPU only between the barriers. The first barrier covers all CPUs, since
/// it also orders the stores through the translations: zeroed contents must be visible before a later
/// descriptor maps the frame elsewhere.
#[inline]
fn complete_local(invalidate: impl FnOnce()) {
    barrier::dsb_ishst();
    invalidate();
    barrier::dsb_nsh();
    barrier::isb();
}

#[cfg(target_os = "none")]
mod instruction {
    use super::range::{TlbiExtent, TlbiSequence};
    use super::*;
    use addr::PAGE_SIZE;
    use core::arch::asm;

    /// One TLBI instruction as a function of its operand. By its encoding (op1 0, CRn 8): not every assembler
    /// has the range forms.
    macro_rules! tlbi {
        ($crm:literal, $op2:literal) => {
            |operand: u64| {
                crate::counters::tlb_invalidation();
                // SAFETY: removes cached translations, which are walked again on use.
                unsafe {
                    asm!(concat!("sys #0, c8, ", $crm, ", #", $op2, ", {}"), in(reg) operand,
                        options(nostack, preserves_flags));
                }
            }
        };
    }

    /// Invalidates the pages that overlap `start..end` for `asid`. `page` and `range` execute the TLBI for a
    /// page and for a range with an operand; `all` executes a TLBI that covers more than the pages.
    #[inline(always)]
    fn pages(
        (start, end): (u64, u64),
        asid: Asid,
        page: impl Fn(u64),
        range: impl Fn(u64),
        all: impl FnOnce(),
    ) -> TlbiCompletion {
        let first = start / PAGE_SIZE;
        let (va, count) = (first * PAGE_SIZE, end.div_ceil(PAGE_SIZE) - first);
        let features = cpu::features();
        match TlbiSequence::new(va, count, features.contains(CpuFeatures::TLB_RANGE)) {
            TlbiSequence::All => all(),
            // The operand of the next page is one more.
            TlbiSequence::Pages => {
                let operand = TlbiExtent::Page.operand(va, asid);
                (operand..operand + count).for_each(page);
            }
            TlbiSequence::Ranges(instructions) => {
                instructions.for_each(|(va, extent)| {
                    let operand = extent.operand(va, asid);
                    match extent {
                        TlbiExtent::Page => page(operand),
                        TlbiExtent::Range { .. } => range(operand),
                    }
                });
                // CPUs that need a repeat count as CPUs without range instructions.
                return TlbiCompletion::WithDsb;
            }
        }
        TlbiCompletion::of(features)
    }

    /// The kernel's entries are global, so no ASID is compared.
    const ANY_ASID: Asid = Asid::new(0);

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) -> TlbiCompletion {
        let range = (range.start().raw(), range.end().raw());
        match level {
            // VAAE1IS, RVAAE1IS
            Level::Any => pages(range, ANY_ASID, tlbi!("c3", "3"), tlbi!("c2", "3"), vmalle1is),
            // VAALE1IS, RVAALE1IS
            Level::Last => pages(range, ANY_ASID, tlbi!("c3", "7"), tlbi!("c2", "7"), vmalle1is),
        }
    }

    pub fn local(range: AddrRange<KernelVa>) {
        // VAALE1, RVAALE1
        let range = (range.start().raw(), range.end().raw());
        // Not broadcast, so never repeated.
        let _ = pages(range, ANY_ASID, tlbi!("c7", "7"), tlbi!("c6", "7"), all_local);
    }

    #[inline]
    pub fn local_leaf(at: KernelVa) {
        tlbi!("c7", "7")(TlbiExtent::Page.operand(at.raw(), ANY_ASID)); // VAALE1
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) -> TlbiCompletion {
        let range = (range.start().raw(), range.end().raw());
        let all = || aside1is(asid);
        match level {
            // VAE1IS, RVAE1IS
            Level::Any => pages(range, asid, tlbi!("c3", "1"), tlbi!("c2", "1"), all),
            // VALE1IS, RVALE1IS
            Level::Last => pages(range, asid, tlbi!("c3", "5"), tlbi!("c2", "5"), all),
        }
    }

    pub fn asid(asid: Asid) -> TlbiCompletion {
        aside1is(asid);
        TlbiCompletion::of(cpu::features())
    }

    fn aside1is(asid: Asid) {
        tlbi!("c3", "2")(u64::from(asid.raw()) << 48);
    }

    /// VALE1IS of address 0.
    #[cold]
    pub fn any() {
        tlbi!("c3", "5")(0);
    }

    fn all_local() {
        crate::counters::tlb_invalidation();
        // SAFETY: removes cached translations, which are walked again on use.
        unsafe { asm!("tlbi vmalle1", options(nostack, preserves_flags)) };
    }

    pub fn all() -> TlbiCompletion {
        vmalle1is();
        TlbiCompletion::of(cpu::features())
    }

    fn vmalle1is() {
        crate::counters::tlb_invalidation();
        // SAFETY: removes cached translations, which are walked again on use.
        unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
    }
}

#[cfg(not(target_os = "none"))]
mod instruction {
    use super::*;
    use crate::fake::{Instruction, record};

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) -> TlbiCompletion {
        record(Instruction::TlbKernel(range, level));
        TlbiCompletion::of(cpu::features())
    }

    pub fn local(range: AddrRange<KernelVa>) {
        record(Instruction::TlbLocal(range));
    }

    pub fn local_leaf(at: KernelVa) {
        record(Instruction::TlbLocal(AddrRange::new(at, at + addr::PAGE_SIZE)));
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) -> TlbiCompletion {
        record(Instruction::TlbUser(asid, range, level));
        TlbiCompletion::of(cpu::features())
    }

    pub fn asid(asid: Asid) -> TlbiCompletion {
        record(Instruction::TlbAsid(asid));
        TlbiCompletion::of(cpu::features())
    }

    pub fn all() -> TlbiCompletion {
        record(Instruction::TlbAll);
        TlbiCompletion::of(cpu::features())
    }

    pub fn any() {
        record(Instruction::TlbAny);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Instruction};

    #[test]
    fn barriers_surround_the_tlbi() {
        let range = AddrRange::new(KernelVa::new(0x1000), KernelVa::new(0x2000));
        kernel(range, Level::Last);
        let expected = [
            Instruction::Barrier("dsb_ishst"),
            Instruction::TlbKernel(range, Level::Last),
            Instruction::Barrier("dsb_ish"),
            Instruction::Barrier("isb"),
        ];
        assert_eq!(fake::take(), expected);
        local(range);
        let expected = [
            Instruction::Barrier("dsb_ishst"),
            Instruction::TlbLocal(range),
            Instruction::Barrier("dsb_nsh"),
            Instruction::Barrier("isb"),
        ];
        assert_eq!(fake::take(), expected);
        local_leaf(range.start());
        assert_eq!(fake::take(), expected);
    }

    #[test]
    fn broadcast_tlbi_and_dsb_are_repeated_on_a_cortex_a76() {
        fake::set_midr(0x413f_d0b0);
        let kernel_range = AddrRange::new(KernelVa::new(0x1000), KernelVa::new(0x2000));
        let user_range = AddrRange::new(UserVa::new(0x1000), UserVa::new(0x2000));
        let one = Asid::new(1);
        let broadcast: [(&dyn Fn(), Instruction); 4] = [
            (&|| kernel(kernel_range, Level::Last), Instruction::TlbKernel(kernel_range, Level::Last)),
            (&|| user(one, user_range, Level::Last), Instruction::TlbUser(one, user_range, Level::Last)),
            (&|| asid(one), Instruction::TlbAsid(one)),
            (&super::all, Instruction::TlbAll),
        ];
        for (invalidate, instruction) in broadcast {
            invalidate();
            let expected = [
                Instruction::Barrier("dsb_ishst"),
                instruction,
                Instruction::Barrier("dsb_ish"),
                Instruction::TlbAny,
                Instruction::Barrier("dsb_ish"),
                Instruction::Barrier("isb"),
            ];
            assert_eq!(fake::take(), expected);
        }
        local(kernel_range);
        assert!(!fake::take().contains(&Instruction::TlbAny), "not broadcast");
    }
}
