//! TLB invalidation (D8.16), by what is to be forgotten.
//!
//! Each function is whole: a DSB ISHST first, so that the table writes that precede it are what any later walk
//! finds; then the TLBIs, broadcast to the inner shareable domain; then a DSB ISH, after which no CPU uses an
//! old translation and all accesses made through one are done; and an ISB for this CPU. When one returns, the
//! frames that were mapped, and with [`Level::Any`] the tables, may be given away.
//!
//! [`local`] is for tables that one CPU's TTBR1 alone leads to. A TLB entry serves the CPU that walked for it and no other
//! as long as TTBRn_EL1.CnP is 0, which it is here, so there is nothing to broadcast and nobody to wait for.

#[cfg(any(target_os = "none", test))]
mod plan;

use crate::barrier;
use addr::{AddrRange, Asid, KernelVa, UserVa};

/// Which cached levels of a walk have to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// All: needed when a table descriptor changed, so before a table is freed.
    Any,
    /// Leaves alone: enough when only page or block descriptors changed.
    Last,
}

/// Forgets the kernel's translations in `range`.
pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
    complete(|| instruction::kernel(range, level));
}

/// Forgets this CPU's leaves in `range`, which no other CPU's tables lead to. What was stored through them is seen by all
/// CPUs before anything that this one stores later.
pub fn local(range: AddrRange<KernelVa>) {
    complete_local(|| instruction::local(range));
}

/// [`local`] for the page or block at `at` alone.
#[inline]
pub fn local_leaf(at: KernelVa) {
    complete_local(|| instruction::local_leaf(at));
}

/// Forgets the translations of `asid` in `range`. Ones that were mapped global do not go.
pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
    complete(|| instruction::user(asid, range, level));
}

/// Forgets all translations of `asid` that were not mapped global: needed before the ASID or its tables are used
/// for another program.
pub fn asid(asid: Asid) {
    complete(|| instruction::asid(asid));
}

/// Forgets everything.
pub fn all() {
    complete(instruction::all);
}

/// The barriers around `invalidate`, for several ranges at a time.
#[inline]
fn complete(invalidate: impl FnOnce()) {
    barrier::dsb_ishst();
    invalidate();
    barrier::dsb_ish();
    barrier::isb();
}

/// The barriers around an `invalidate` on this CPU alone. The first is for all CPUs because of what was stored through the
/// leaves: whoever owned the frames had them zeroed, and an entry that shows them to somebody else comes later.
#[inline]
fn complete_local(invalidate: impl FnOnce()) {
    barrier::dsb_ishst();
    invalidate();
    barrier::dsb_nsh();
    barrier::isb();
}

#[cfg(target_os = "none")]
mod instruction {
    use super::plan::{Operation, Plan};
    use super::*;
    use crate::cpu::{self, CpuFeatures};
    use addr::PAGE_SIZE;
    use core::arch::asm;

    /// One TLBI instruction as a function of its operand. By its encoding (op1 0, CRn 8): not every assembler has the
    /// range forms.
    macro_rules! tlbi {
        ($crm:literal, $op2:literal) => {
            |operand: u64| {
                #[cfg(feature = "counters")]
                crate::counters::tlb_invalidation();
                // SAFETY: removes cached translations, which are walked again on use.
                unsafe {
                    asm!(concat!("sys #0, c8, ", $crm, ", #", $op2, ", {}"), in(reg) operand,
                        options(nostack, preserves_flags));
                }
            }
        };
    }

    /// Invalidates the pages that touch `start..end`, tagged `asid`: `page` and `range` execute the instruction for a page
    /// and for a range with an operand, `all` one that invalidates more than the pages.
    #[inline(always)]
    fn pages(
        (start, end): (u64, u64),
        asid: Asid,
        page: impl Fn(u64),
        range: impl Fn(u64),
        all: impl FnOnce(),
    ) {
        let first = start / PAGE_SIZE;
        let (va, count) = (first * PAGE_SIZE, end.div_ceil(PAGE_SIZE) - first);
        match Plan::new(va, count, cpu::features().contains(CpuFeatures::TLB_RANGE)) {
            Plan::All => all(),
            // The operand of the next page is one more.
            Plan::Pages => {
                let operand = Operation::Page.operand(va, asid);
                (operand..operand + count).for_each(page);
            }
            Plan::Ranges(operations) => operations.for_each(|(va, operation)| {
                let operand = operation.operand(va, asid);
                match operation {
                    Operation::Page => page(operand),
                    Operation::Range { .. } => range(operand),
                }
            }),
        }
    }

    /// The kernel's entries are global, so no ASID is compared.
    const ANY_ASID: Asid = Asid::new(0);

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
        let range = (range.start().raw(), range.end().raw());
        match level {
            // VAAE1IS, RVAAE1IS
            Level::Any => pages(range, ANY_ASID, tlbi!("c3", "3"), tlbi!("c2", "3"), all),
            // VAALE1IS, RVAALE1IS
            Level::Last => pages(range, ANY_ASID, tlbi!("c3", "7"), tlbi!("c2", "7"), all),
        }
    }

    pub fn local(range: AddrRange<KernelVa>) {
        // VAALE1, RVAALE1
        let range = (range.start().raw(), range.end().raw());
        pages(range, ANY_ASID, tlbi!("c7", "7"), tlbi!("c6", "7"), all_local);
    }

    #[inline]
    pub fn local_leaf(at: KernelVa) {
        tlbi!("c7", "7")(Operation::Page.operand(at.raw(), ANY_ASID)); // VAALE1
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
        let range = (range.start().raw(), range.end().raw());
        let all = || self::asid(asid);
        match level {
            // VAE1IS, RVAE1IS
            Level::Any => pages(range, asid, tlbi!("c3", "1"), tlbi!("c2", "1"), all),
            // VALE1IS, RVALE1IS
            Level::Last => pages(range, asid, tlbi!("c3", "5"), tlbi!("c2", "5"), all),
        }
    }

    pub fn asid(asid: Asid) {
        tlbi!("c3", "2")(u64::from(asid.raw()) << 48); // ASIDE1IS
    }

    fn all_local() {
        #[cfg(feature = "counters")]
        crate::counters::tlb_invalidation();
        // SAFETY: forgets cached translations, which are walked again on use.
        unsafe { asm!("tlbi vmalle1", options(nostack, preserves_flags)) };
    }

    pub fn all() {
        #[cfg(feature = "counters")]
        crate::counters::tlb_invalidation();
        // SAFETY: forgets cached translations, which are walked again on use.
        unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
    }
}

#[cfg(not(target_os = "none"))]
mod instruction {
    use super::*;
    use crate::fake::{Instruction, record};

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
        record(Instruction::TlbKernel(range, level));
    }

    pub fn local(range: AddrRange<KernelVa>) {
        record(Instruction::TlbLocal(range));
    }

    pub fn local_leaf(at: KernelVa) {
        record(Instruction::TlbLocal(AddrRange::new(at, at + addr::PAGE_SIZE)));
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
        record(Instruction::TlbUser(asid, range, level));
    }

    pub fn asid(asid: Asid) {
        record(Instruction::TlbAsid(asid));
    }

    pub fn all() {
        record(Instruction::TlbAll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Instruction};

    #[test]
    fn the_barriers_are_inside() {
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
}
