//! The layout of the image, from the symbols of the linker script (linker.ld).

use super::{IMAGE_BASE, Section, SectionKind};
use crate::cpu;
use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

unsafe extern "C" {
    // Only the addresses are defined.
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __boot_stack_bottom: u8;
    static __boot_stack_top: u8;
    static __emergency_stacks: u8;
}

/// Physical minus virtual address of the image, modulo 2^64.
static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

/// The range between two symbols of the linker script.
macro_rules! symbols {
    ($start:ident, $end:ident) => {
        AddrRange::new(KernelVa::new((&raw const $start) as u64), KernelVa::new((&raw const $end) as u64))
    };
}

/// The load address of `va`, an address in the image.
pub fn image_phys(va: KernelVa) -> PhysAddr {
    PhysAddr::new(va.raw().wrapping_add(IMAGE_OFFSET.load(Relaxed)))
}

/// The emergency stack of CPU `index`, used after a kernel stack overflow. A guard page precedes it.
pub fn emergency_stack(index: usize) -> AddrRange<KernelVa> {
    let stride = PAGE_SIZE + cpu::EMERGENCY_STACK_SIZE;
    let guard = (&raw const __emergency_stacks) as u64 + stride * index as u64;
    AddrRange::new(KernelVa::new(guard + PAGE_SIZE), KernelVa::new(guard + stride))
}

/// The boot stack.
pub fn boot_stack() -> AddrRange<KernelVa> {
    symbols!(__boot_stack_bottom, __boot_stack_top)
}

/// The sections of the image that the final tables must map. The pages between them are guard pages.
pub fn sections() -> impl Iterator<Item = Section> {
    let fixed = [
        (SectionKind::Text, symbols!(__text_start, __text_end)),
        (SectionKind::Rodata, symbols!(__rodata_start, __rodata_end)),
        (SectionKind::Data, symbols!(__data_start, __data_end)),
        (SectionKind::Stack, boot_stack()),
    ];
    let emergency = (0..cpu::MAX_CPUS).map(|index| (SectionKind::Stack, emergency_stack(index)));
    fixed.into_iter().chain(emergency).map(|(kind, virt)| Section {
        kind,
        virt,
        phys: image_phys(virt.start()),
    })
}

/// Sets the load address of the image. Must precede all other functions of this module.
pub(super) fn loaded_at(start: PhysAddr) {
    IMAGE_OFFSET.store(start.raw().wrapping_sub(IMAGE_BASE.raw()), Relaxed);
}

/// The physical range of the image.
pub(super) fn image_range() -> AddrRange<PhysAddr> {
    let virt = symbols!(__image_start, __image_end);
    AddrRange::new(image_phys(virt.start()), image_phys(virt.start()) + virt.len())
}
