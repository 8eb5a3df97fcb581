//! The Rust entry point of each CPU, and the release of secondary CPUs.

use super::{BootInfo, image, tables};
use crate::{cache, cpu, exception, memory};
use addr::{AddrRange, KernelVa, PhysAddr};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

core::arch::global_asm!(include_str!("../boot.s"), options(raw));

unsafe extern "C" {
    fn secondary_start();
    fn parking_lot();
    fn idmap_replace_ttbr1();
}

#[expect(improper_ctypes, reason = "both sides are Rust, and only a pointer crosses")]
unsafe extern "C" {
    // Defined by the kernel image.
    fn kernel_main(boot: &BootInfo) -> !;
    fn secondary_main(cpu: usize) -> !;
}

/// Mailbox of the CPUs that wait in boot.s: an affinity and the address of a SecondaryArgs. In .data, since
/// .bss is zeroed while CPUs already poll.
#[repr(C, align(128))]
struct Parked {
    affinity: AtomicU64,
    args: AtomicU64,
}
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.parked")]
static PARKED: Parked = Parked { affinity: AtomicU64::new(0), args: AtomicU64::new(0) };

/// The entry point for CPU_ON; the context is the physical address of a
/// [`SecondaryArgs`](super::SecondaryArgs).
pub fn secondary_entry() -> PhysAddr {
    image::image_phys(KernelVa::new(secondary_start as *const () as u64))
}

/// The entry point for a start method without context: a spin table (`cpu-release-addr`). The CPU waits there
/// for [`release_parked`].
pub fn parking_entry() -> PhysAddr {
    image::image_phys(KernelVa::new(parking_lot as *const () as u64))
}

/// Releases the parked CPU with this affinity to [`secondary_entry`]; `args` is the physical address of its
/// [`SecondaryArgs`](super::SecondaryArgs). A CPU is parked if the loader started it together with the boot
/// CPU, or at [`parking_entry`]. The caller must wait until the CPU runs before it releases another one.
///
/// # Safety
/// As for [`psci::cpu_on`](crate::psci::cpu_on) with `args` as the context.
pub unsafe fn release_parked(affinity: u64, args: PhysAddr) {
    let line = AddrRange::new(
        KernelVa::new(core::ptr::from_ref(&PARKED) as u64),
        KernelVa::new(core::ptr::from_ref(&PARKED) as u64 + size_of::<Parked>() as u64),
    );
    // The parked CPU has its caches off, and must never observe the new affinity with the old arguments.
    PARKED.args.store(0, Relaxed);
    cache::clean(line);
    PARKED.affinity.store(affinity, Relaxed);
    cache::clean(line);
    PARKED.args.store(args.raw(), Relaxed);
    cache::clean(line);
    cpu::sev();
}

/// The physical address of the code in the identity-mapped page that writes TTBR1 (boot.s).
pub(crate) fn replace_ttbr1_code() -> PhysAddr {
    image::image_phys(KernelVa::new(idmap_replace_ttbr1 as *const () as u64))
}

/// Initializes CPU `index`: CPU-local data, vector table, features.
fn install(index: usize) {
    cpu::install(index, image::emergency_stack(index).end());
    exception::install();
    cpu::detect(index);
    memory::detect(index);
}

/// Rust entry point of the boot CPU: MMU on, boot stack, exceptions masked.
#[unsafe(no_mangle)]
extern "C" fn boot_cpu_main(dtb: u64, image: u64, entry_el: u64) -> ! {
    image::loaded_at(PhysAddr::new(image));
    tables::map_emergency_stacks();
    install(0);
    tables::leave_identity_map();
    let boot = BootInfo { dtb: PhysAddr::new(dtb), image: image::image_range(), entry_el: entry_el as u8 };
    // SAFETY: defined by the kernel crate with this signature.
    unsafe { kernel_main(&boot) }
}

/// Rust entry point of a secondary CPU: final tables, its own stack, exceptions masked.
#[unsafe(no_mangle)]
extern "C" fn secondary_cpu_main(index: usize) -> ! {
    install(index);
    tables::leave_identity_map();
    // SAFETY: defined by the kernel crate with this signature.
    unsafe { secondary_main(index) }
}
