//! The image on a host: at the load address of QEMU's virt board, without mappings and parked CPUs.

use super::*;
use crate::cpu;
use crate::fake::{Instruction, record};

const LOADED_AT: u64 = 0x4020_0000;

/// The load address of `va`, an address in the image.
pub fn image_phys(va: KernelVa) -> PhysAddr {
    PhysAddr::new(va.raw().wrapping_sub(IMAGE_BASE.raw()).wrapping_add(LOADED_AT))
}

/// The emergency stack of CPU `index`, used after a kernel stack overflow.
pub fn emergency_stack(index: usize) -> AddrRange<KernelVa> {
    let start = boot_stack().end() + (index as u64 + 1) * (0x1000 + cpu::EMERGENCY_STACK_SIZE);
    AddrRange::new(start, start + cpu::EMERGENCY_STACK_SIZE)
}

/// The boot stack.
pub fn boot_stack() -> AddrRange<KernelVa> {
    AddrRange::new(IMAGE_BASE + 0x10_0000, IMAGE_BASE + 0x11_0000)
}

/// The sections of the image that the final tables must map.
pub fn sections() -> impl Iterator<Item = Section> {
    [
        (SectionKind::Text, 0, 0x8000),
        (SectionKind::Rodata, 0x8000, 0xc000),
        (SectionKind::Data, 0xc000, 0x10_0000),
    ]
    .into_iter()
    .map(|(kind, start, end)| Section {
        kind,
        virt: AddrRange::new(IMAGE_BASE + start, IMAGE_BASE + end),
        phys: image_phys(IMAGE_BASE + start),
    })
}

/// Maps `chunk` at its address in the linear map; no operation on a host.
///
/// # Safety
/// None on a host.
pub unsafe fn map_early_linear(_: addr::Chunk) {}

/// The entry point for CPU_ON; the context is the physical address of a [`SecondaryArgs`].
pub fn secondary_entry() -> PhysAddr {
    PhysAddr::new(LOADED_AT + 0x40)
}

/// The entry point for a start method without context. The CPU waits there for [`release_parked`].
pub fn parking_entry() -> PhysAddr {
    PhysAddr::new(LOADED_AT + 0x80)
}

/// Releases the parked CPU with this affinity to [`secondary_entry`].
///
/// # Safety
/// None on a host.
pub unsafe fn release_parked(affinity: u64, args: PhysAddr) {
    record(Instruction::ReleaseParked(affinity, args));
}

/// Maps the 2 MiB around `pa` as Device-nGnRE and returns the virtual address of `pa`.
///
/// # Safety
/// None on a host.
pub unsafe fn map_early_device(pa: PhysAddr) -> KernelVa {
    EARLY_DEVICES + pa.raw() % (2 << 20)
}

/// Maps the device tree at `pa` read-only; always an error on a host.
///
/// # Safety
/// None on a host.
pub unsafe fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
    Err(EarlyDtbError::NoAddress(pa))
}
