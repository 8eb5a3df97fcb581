//! TLB invalidation on all CPUs (D8.16), by what is to be forgotten.
//!
//! Each function is whole: a DSB ISHST first, so that the table writes that precede it are what any later walk
//! finds; then the TLBIs, broadcast to the inner shareable domain; then a DSB ISH, after which no CPU uses an
//! old translation and all accesses made through one are done; and an ISB for this CPU. When one returns, the
//! frames that were mapped, and with [`Level::Any`] the tables, may be given away.

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
    complete(|| broadcast::kernel(range, level));
}

/// [`kernel`] for the page at `at` alone, and leaves alone.
#[inline]
pub fn kernel_page(at: KernelVa) {
    complete(|| broadcast::kernel_page(at));
}

/// Forgets the translations of `asid` in `range`. Ones that were mapped global do not go.
pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
    complete(|| broadcast::user(asid, range, level));
}

/// Forgets all translations of `asid` that were not mapped global: needed before the ASID or its tables are used
/// for another program.
pub fn asid(asid: Asid) {
    complete(|| broadcast::asid(asid));
}

/// Forgets everything.
pub fn all() {
    complete(broadcast::all);
}

/// The barriers around `invalidate`, for several ranges at a time.
#[inline]
fn complete(invalidate: impl FnOnce()) {
    barrier::dsb_ishst();
    invalidate();
    barrier::dsb_ish();
    barrier::isb();
}

#[cfg(target_os = "none")]
mod broadcast {
    use super::plan::{Operation, plan};
    use super::*;
    use crate::cpu::{self, Features};
    use addr::PAGE_SIZE;
    use core::arch::asm;

    /// One TLBI with an operand. By SYS encoding (op1 0, CRn c8), since not every assembler knows the range forms.
    macro_rules! tlbi {
        ($crm:literal, $op2:literal, $operand:expr) => {{
            #[cfg(feature = "counters")]
            crate::counters::tlb_invalidation();
            // SAFETY: forgets cached translations, which are walked again on use.
            unsafe {
                asm!(concat!("sys #0, c8, ", $crm, ", #", $op2, ", {}"), in(reg) $operand,
                    options(nostack, preserves_flags));
            }
        }};
    }

    /// The instructions' plan for the pages that touch `start..end`.
    fn plan_for(start: u64, end: u64) -> Option<impl Iterator<Item = (u64, Operation)>> {
        let first = start / PAGE_SIZE;
        let pages = end.div_ceil(PAGE_SIZE) - first;
        plan(first * PAGE_SIZE, pages, cpu::features().contains(Features::TLB_RANGE))
    }

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
        let Some(operations) = plan_for(range.start().raw(), range.end().raw()) else { return all() };
        for (va, operation) in operations {
            let operand = operation.operand(va, Asid::new(0));
            match (operation, level) {
                (Operation::Page, Level::Any) => tlbi!("c3", "3", operand), // VAAE1IS
                (Operation::Page, Level::Last) => tlbi!("c3", "7", operand), // VAALE1IS
                (Operation::Range { .. }, Level::Any) => tlbi!("c2", "3", operand), // RVAAE1IS
                (Operation::Range { .. }, Level::Last) => tlbi!("c2", "7", operand), // RVAALE1IS
            }
        }
    }

    #[inline]
    pub fn kernel_page(at: KernelVa) {
        tlbi!("c3", "7", Operation::Page.operand(at.raw(), Asid::new(0))); // VAALE1IS
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
        let Some(operations) = plan_for(range.start().raw(), range.end().raw()) else {
            return self::asid(asid);
        };
        for (va, operation) in operations {
            let operand = operation.operand(va, asid);
            match (operation, level) {
                (Operation::Page, Level::Any) => tlbi!("c3", "1", operand), // VAE1IS
                (Operation::Page, Level::Last) => tlbi!("c3", "5", operand), // VALE1IS
                (Operation::Range { .. }, Level::Any) => tlbi!("c2", "1", operand), // RVAE1IS
                (Operation::Range { .. }, Level::Last) => tlbi!("c2", "5", operand), // RVALE1IS
            }
        }
    }

    pub fn asid(asid: Asid) {
        tlbi!("c3", "2", u64::from(asid.raw()) << 48); // ASIDE1IS
    }

    pub fn all() {
        #[cfg(feature = "counters")]
        crate::counters::tlb_invalidation();
        // SAFETY: forgets cached translations, which are walked again on use.
        unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
    }
}

#[cfg(not(target_os = "none"))]
mod broadcast {
    use super::*;
    use crate::fake::{Event, record};

    pub fn kernel(range: AddrRange<KernelVa>, level: Level) {
        record(Event::TlbKernel(range, level));
    }

    pub fn kernel_page(at: KernelVa) {
        record(Event::TlbKernel(AddrRange::new(at, at + addr::PAGE_SIZE), Level::Last));
    }

    pub fn user(asid: Asid, range: AddrRange<UserVa>, level: Level) {
        record(Event::TlbUser(asid, range, level));
    }

    pub fn asid(asid: Asid) {
        record(Event::TlbAsid(asid));
    }

    pub fn all() {
        record(Event::TlbAll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Event};

    #[test]
    fn the_barriers_are_inside() {
        let range = AddrRange::new(KernelVa::new(0x1000), KernelVa::new(0x2000));
        kernel(range, Level::Last);
        let expected = [
            Event::Barrier("dsb_ishst"),
            Event::TlbKernel(range, Level::Last),
            Event::Barrier("dsb_ish"),
            Event::Barrier("isb"),
        ];
        assert_eq!(fake::take(), expected);
        kernel_page(range.start());
        assert_eq!(fake::take(), expected);
    }
}
