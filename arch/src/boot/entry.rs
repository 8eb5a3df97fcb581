//! The first Rust on each CPU, and how the others are brought to it.

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
    // The kernel crate's.
    fn kernel_main(boot: &BootInfo) -> !;
    fn secondary_main(cpu: usize) -> !;
}

/// Affinity and SecondaryArgs address for a CPU that waits in boot.s. In .data: .bss is zeroed under its eyes.
#[repr(C, align(128))]
struct Parked {
    affinity: AtomicU64,
    args: AtomicU64,
}
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.parked")]
static PARKED: Parked = Parked { affinity: AtomicU64::new(0), args: AtomicU64::new(0) };

/// Where CPU_ON has to send a CPU, with the physical address of its [`SecondaryArgs`](super::SecondaryArgs) as
/// context.
pub fn secondary_entry() -> PhysAddr {
    image::image_phys(KernelVa::new(secondary_start as *const () as u64))
}

/// Where to send a CPU without a context, to wait for [`release_parked`]: what a spin table takes
/// (`cpu-release-addr`).
pub fn parking_entry() -> PhysAddr {
    image::image_phys(KernelVa::new(parking_lot as *const () as u64))
}

/// Sends the CPU with this affinity to [`secondary_entry`] with the physical address of its
/// [`SecondaryArgs`](super::SecondaryArgs), if it waits in boot.s: since the loader started it together with
/// the boot CPU, or sent it to [`parking_entry`]. One at a time: the next only when this one is seen to run.
pub fn release_parked(affinity: u64, args: PhysAddr) {
    let line = AddrRange::new(
        KernelVa::new(core::ptr::from_ref(&PARKED) as u64),
        KernelVa::new(core::ptr::from_ref(&PARKED) as u64 + size_of::<Parked>() as u64),
    );
    // The waiting CPU has its caches off, and must never see the new affinity with the old arguments.
    PARKED.args.store(0, Relaxed);
    cache::clean(line);
    PARKED.affinity.store(affinity, Relaxed);
    cache::clean(line);
    PARKED.args.store(args.raw(), Relaxed);
    cache::clean(line);
    cpu::sev();
}

/// The code in the identity-mapped page which changes TTBR1 (boot.s).
pub(crate) fn replace_ttbr1_code() -> PhysAddr {
    image::image_phys(KernelVa::new(idmap_replace_ttbr1 as *const () as u64))
}

/// Sets up CPU number `index`: its identity, its exceptions, and what depends on its features.
fn install(index: usize) {
    cpu::install(index);
    exception::install();
    cpu::detect(index);
    memory::detect(index);
}

/// The boot CPU's first Rust: MMU on, first stack, exceptions still masked.
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

/// A secondary CPU's first Rust: final tables, its own stack, exceptions still masked.
#[unsafe(no_mangle)]
extern "C" fn secondary_cpu_main(index: usize) -> ! {
    install(index);
    tables::leave_identity_map();
    // SAFETY: defined by the kernel crate with this signature.
    unsafe { secondary_main(index) }
}
