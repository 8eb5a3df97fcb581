//! The exception level, and the permissions of the kernel's own mappings.

use super::{Outcome, Test};
use crate::{audit, check, pass};
use addr::{AddrRange, KernelVa, PAGE_SIZE};
use arch::boot::{IMAGE_BASE, SectionKind};
use pagetable::Access;

pub const TESTS: &[Test] = &[
    Test { name: "boot.runs_at_el1", run: runs_at_el1 },
    Test {
        name: "boot.no_kernel_mapping_is_writable_and_executable",
        run: no_kernel_mapping_is_writable_and_executable,
    },
    Test { name: "boot.text_and_rodata_are_read_only", run: text_and_rodata_are_read_only },
    Test { name: "boot.stacks_have_guard_pages", run: stacks_have_guard_pages },
];

/// The kernel's half of the address space (TTBR1).
pub fn kernel_half() -> AddrRange<KernelVa> {
    AddrRange::new(KernelVa::new(0xffff_0000_0000_0000), KernelVa::new(0xffff_ffff_ffff_f000))
}

fn runs_at_el1() -> Outcome {
    let (entry, now) = (kernel::firmware::entry_level(), arch::cpu::exception_level());
    check!(now == 1, "entered at EL{entry}, runs at EL{now}");
    pass!("entered at EL{entry}, runs at EL{now}")
}

fn no_kernel_mapping_is_writable_and_executable() -> Outcome {
    let (mut leaves, mut executable, mut both) = (0u64, 0u64, None);
    audit::kernel_leaves(kernel_half(), |leaf| {
        leaves += 1;
        if leaf.access.contains(Access::EXECUTE) {
            executable += leaf.bytes;
            if leaf.access.contains(Access::WRITE) {
                both = Some(leaf.at);
            }
        }
    });
    check!(both.is_none(), "{both:?} is writable and executable");
    check!(executable > 0, "none of {leaves} mappings is executable: not the kernel's page tables");
    pass!("{leaves} mappings, {} KiB executable and read-only", executable >> 10)
}

/// Checks by address translation instructions (AT), not by the page tables.
fn text_and_rodata_are_read_only() -> Outcome {
    for section in arch::boot::sections() {
        let at = section.virt.start();
        let (read, write) = (arch::mmu::translate_kernel(at), arch::mmu::translate_kernel_write(at));
        check!(
            read.is_some_and(|found| found.phys == section.phys),
            "{:?} at {at}: read gives {read:x?}",
            section.kind
        );
        let writable = matches!(section.kind, SectionKind::Data | SectionKind::Stack);
        check!(write.is_some() == writable, "{:?} at {at}: write gives {write:x?}", section.kind);
    }
    pass!("image at {IMAGE_BASE}: text and rodata read-only, data and stacks writable")
}

fn stacks_have_guard_pages() -> Outcome {
    let boot = arch::boot::boot_stack();
    let mut bottoms = alloc::vec![("boot stack", boot.start())];
    bottoms.extend(
        (0..arch::cpu::MAX_CPUS).map(|cpu| ("emergency stack", arch::boot::emergency_stack(cpu).start())),
    );
    for (name, bottom) in bottoms {
        let guard = KernelVa::new(bottom.raw() - PAGE_SIZE);
        check!(arch::mmu::translate_kernel(guard).is_none(), "{name}: guard page {guard} is mapped");
    }
    pass!("a guard page below the boot stack and each emergency stack")
}
