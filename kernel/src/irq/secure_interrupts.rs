//! Taking the interrupts from the secure side. Without firmware nobody has said that they are for us: after reset all are
//! the secure side's, whose registers the kernel asks to be written ([`arch::monitor`]).

use crate::firmware;
use addr::{AddrRange, PhysAddr};
use arch::monitor::{self, NotSupported};
use spin::Once;

/// GICD_IGROUPR0 (IHI 0048B, 4.3.4), a bit for each interrupt; the one of CPUs' own interrupts is a copy for each CPU.
const GICD_IGROUPR: u64 = 0x80;
const GROUP_REGISTERS: u64 = 32;
/// GICC_PMR (4.4.2), a copy for each CPU.
const GICC_PMR: u64 = 0x4;

/// A GICv2 whose secure side is ours.
static GIC_V2: Once<GicV2> = Once::new();

#[derive(Clone, Copy)]
struct GicV2 {
    distributor: PhysAddr,
    cpu_interface: PhysAddr,
}

/// A GICv3 has one security state from here on (GICD_CTLR.DS; IHI 0069, 12.9.4), in which all of it is ours.
pub(super) fn take_v3(distributor: AddrRange<PhysAddr>) {
    const GICD_CTLR_DS: u32 = 1 << 6;
    if firmware::entry_level() == 3 {
        // SAFETY: a register of the interrupt controller.
        complain(unsafe { monitor::write32(distributor.start(), GICD_CTLR_DS) });
    }
}

/// A GICv2's shared interrupts are in group 1 from here on, which is ours. Where it has no security extensions there is
/// one group, and the registers ignore this.
pub(super) fn take_v2(distributor: AddrRange<PhysAddr>, cpu_interface: AddrRange<PhysAddr>) {
    if firmware::entry_level() == 3 {
        let gic = GicV2 { distributor: distributor.start(), cpu_interface: cpu_interface.start() };
        complain(gic.take_shared());
        GIC_V2.call_once(|| gic);
    }
}

/// The same for the interrupts of the CPU that this runs on.
pub(super) fn take_cpus_own() {
    if let Some(gic) = GIC_V2.get() {
        complain(gic.take_private());
    }
}

impl GicV2 {
    fn take_shared(self) -> Result<(), NotSupported> {
        (1..GROUP_REGISTERS).try_for_each(|word| self.to_group_1(word))
    }

    fn take_private(self) -> Result<(), NotSupported> {
        self.to_group_1(0)?;
        // As long as it is in the more urgent half, writes from our side are ignored (4.4.2).
        // SAFETY: a register of the interrupt controller.
        unsafe { monitor::write32(self.cpu_interface + GICC_PMR, 0xff) }
    }

    fn to_group_1(self, word: u64) -> Result<(), NotSupported> {
        // SAFETY: a register of the interrupt controller.
        unsafe { monitor::write32(self.distributor + GICD_IGROUPR + 4 * word, u32::MAX) }
    }
}

fn complain(taken: Result<(), NotSupported>) {
    if let Err(error) = taken {
        log::warn!("interrupts: they stay the secure side's: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::fake::{self, Instruction};

    #[test]
    fn all_interrupts_of_a_gic_v2_go_to_group_1_and_each_cpu_takes_its_own() {
        let gic = GicV2 { distributor: PhysAddr::new(0x800_0000), cpu_interface: PhysAddr::new(0x801_0000) };
        fake::take();
        assert_eq!(gic.take_shared(), Ok(()));
        let log = fake::take();
        assert_eq!((&log[0], log.len()), (&Instruction::SecureWrite(0x800_0084, u32::MAX), 31));
        assert_eq!(log[30], Instruction::SecureWrite(0x800_00fc, u32::MAX));
        assert_eq!(gic.take_private(), Ok(()));
        let own =
            [Instruction::SecureWrite(0x800_0080, u32::MAX), Instruction::SecureWrite(0x801_0004, 0xff)];
        assert_eq!(fake::take(), own);
    }
}
