//! A host's image: where a loader on QEMU's virt board would put it. Nothing is mapped and nobody waits.

use super::*;
use crate::cpu;
use crate::fake::{Instruction, record};

const LOADED_AT: u64 = 0x4020_0000;

/// Where a part of the image was loaded.
pub fn image_phys(va: KernelVa) -> PhysAddr {
    PhysAddr::new(va.raw().wrapping_sub(IMAGE_BASE.raw()).wrapping_add(LOADED_AT))
}

/// The stack below which CPU `index` has a guard page, for when its own stack overflowed.
pub fn emergency_stack(index: usize) -> AddrRange<KernelVa> {
    let start = boot_stack().end() + (index as u64 + 1) * (0x1000 + cpu::EMERGENCY_STACK_SIZE);
    AddrRange::new(start, start + cpu::EMERGENCY_STACK_SIZE)
}

/// The first stack.
pub fn boot_stack() -> AddrRange<KernelVa> {
    AddrRange::new(IMAGE_BASE + 0x10_0000, IMAGE_BASE + 0x11_0000)
}

/// All that the final tables must map of the image.
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

/// Maps `chunk` where the linear map will have it: nothing, on a host.
pub fn map_early_linear(_: addr::Chunk) {}

/// Where CPU_ON has to send a CPU, with the physical address of its [`SecondaryArgs`] as context.
pub fn secondary_entry() -> PhysAddr {
    PhysAddr::new(LOADED_AT + 0x40)
}

/// Where to send a CPU without a context, to wait for [`release_parked`].
pub fn parking_entry() -> PhysAddr {
    PhysAddr::new(LOADED_AT + 0x80)
}

/// Sends a CPU that waits in boot.s to [`secondary_entry`].
pub fn release_parked(affinity: u64, args: PhysAddr) {
    record(Instruction::ReleaseParked(affinity, args));
}

/// Maps the 2 MiB around `pa` as Device-nGnRE and returns where `pa` is.
pub fn map_early_device(pa: PhysAddr) -> KernelVa {
    EARLY_DEVICES + pa.raw() % (2 << 20)
}

/// Maps the device tree at `pa` read-only; a host has none.
pub fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
    Err(EarlyDtbError::NoAddress(pa))
}
