//! Assignment of the interrupts to the non-secure state. After reset all interrupts are secure, and firmware
//! usually reassigns them. Without firmware the kernel has its EL3 monitor write the secure registers
//! ([`arch::monitor`]).

use crate::firmware;
use addr::{AddrRange, PhysAddr};
use arch::monitor::{self, NotSupported};
use spin::Once;

/// GICD_IGROUPR0 (IHI 0048B, 4.3.4), a bit for each interrupt; the register of the private interrupts is
/// banked per CPU.
const GICD_IGROUPR: u64 = 0x80;
const GROUP_REGISTERS: u64 = 32;
/// GICC_PMR (4.4.2), banked per CPU.
const GICC_PMR: u64 = 0x4;

/// The GICv2 whose secure registers the kernel can write, by the promise of [`claim_v2`].
static GIC_V2: Once<GicV2> = Once::new();

#[derive(Clone, Copy)]
struct GicV2 {
    distributor: PhysAddr,
    cpu_interface: PhysAddr,
}

/// Disables the security states of a GICv3 (GICD_CTLR.DS; IHI 0069, 12.9.4), which makes all its registers
/// accessible.
///
/// # Safety
/// `distributor` is that of a GICv3.
pub(super) unsafe fn claim_v3(distributor: AddrRange<PhysAddr>) {
    const GICD_CTLR_DS: u32 = 1 << 6;
    if firmware::entry_level() == 3 {
        // SAFETY: its first register, by the caller's promise.
        warn_on_error(unsafe { monitor::write32(distributor.start(), GICD_CTLR_DS) });
    }
}

/// Assigns the shared interrupts of a GICv2 to group 1, the non-secure group. Without security extensions
/// there is one group, and the registers ignore the writes.
///
/// # Safety
/// The ranges are those of a GICv2.
pub(super) unsafe fn claim_v2(distributor: AddrRange<PhysAddr>, cpu_interface: AddrRange<PhysAddr>) {
    if firmware::entry_level() == 3 {
        let gic = GicV2 { distributor: distributor.start(), cpu_interface: cpu_interface.start() };
        warn_on_error(gic.assign_shared());
        GIC_V2.call_once(|| gic);
    }
}

/// Assigns the private interrupts of the calling CPU to group 1.
pub(super) fn claim_private() {
    if let Some(gic) = GIC_V2.get() {
        warn_on_error(gic.assign_private());
    }
}

impl GicV2 {
    fn assign_shared(self) -> Result<(), NotSupported> {
        (1..GROUP_REGISTERS).try_for_each(|word| self.assign_word(word))
    }

    fn assign_private(self) -> Result<(), NotSupported> {
        self.assign_word(0)?;
        // Non-secure writes are ignored while the priority mask is in the more urgent half (4.4.2).
        // SAFETY: a register of the interrupt controller.
        unsafe { monitor::write32(self.cpu_interface + GICC_PMR, 0xff) }
    }

    fn assign_word(self, word: u64) -> Result<(), NotSupported> {
        // SAFETY: a register of the interrupt controller.
        unsafe { monitor::write32(self.distributor + GICD_IGROUPR + 4 * word, u32::MAX) }
    }
}

fn warn_on_error(result: Result<(), NotSupported>) {
    if let Err(error) = result {
        log::warn!("interrupts: cannot be made non-secure: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::fake::{self, Instruction};

    #[test]
    fn gic_v2_interrupts_are_assigned_to_group_1_private_ones_by_each_cpu() {
        let gic = GicV2 { distributor: PhysAddr::new(0x800_0000), cpu_interface: PhysAddr::new(0x801_0000) };
        fake::take();
        assert_eq!(gic.assign_shared(), Ok(()));
        let log = fake::take();
        assert_eq!((&log[0], log.len()), (&Instruction::SecureWrite(0x800_0084, u32::MAX), 31));
        assert_eq!(log[30], Instruction::SecureWrite(0x800_00fc, u32::MAX));
        assert_eq!(gic.assign_private(), Ok(()));
        let private =
            [Instruction::SecureWrite(0x800_0080, u32::MAX), Instruction::SecureWrite(0x801_0004, 0xff)];
        assert_eq!(fake::take(), private);
    }
}
