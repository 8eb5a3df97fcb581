//! GICv3 and v4 (IHI 0069) on top of the `arm-gic` crate; the CPU interface consists of system registers.

use super::common::{DEFAULT_PRIORITY, GicError, GicInterrupt, GicPending, IntId, SgiDestination, Trigger};
use crate::mmio::MmioWindow;
use alloc::vec::Vec;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicDistributor, GicRedistributor, SgiTarget, SgiTargetGroup};
use arm_gic::{InterruptGroup, UniqueMmioPointer};
use core::ptr::NonNull;

/// Size of a redistributor: the frames RD and SGI, twice that with virtual LPIs.
const FRAMES: u64 = size_of::<GicrSgi>() as u64;

pub(super) struct DistributorV3 {
    gicd: GicDistributor<'static>,
    regions: Vec<MmioWindow>,
}

// SAFETY: both are pointers to registers that any CPU may access; `&mut self` excludes concurrent accesses.
unsafe impl Send for DistributorV3 {}

impl DistributorV3 {
    pub(super) fn new(registers: MmioWindow, regions: Vec<MmioWindow>) -> Result<Self, GicError> {
        registers.at_least(size_of::<Gicd>() as u64)?;
        regions.iter().try_for_each(|region| region.at_least(FRAMES))?;
        let pointer = core::ptr::with_exposed_provenance_mut(registers.address().raw() as usize);
        let pointer = NonNull::new(pointer).expect("a window is not at address 0");
        // SAFETY: mapped registers of at least this size, as the window guarantees (checked above), which
        // this function owns and accesses through this pointer only.
        let gicd = GicDistributor::new(unsafe { UniqueMmioPointer::new(pointer) });
        let mut gic = Self { gicd, regions };
        gic.init();
        Ok(gic)
    }

    fn init(&mut self) {
        self.gicd.enable_all_interrupts(false);
        self.gicd.configure_default_settings();
    }

    /// Initializes this CPU: its redistributor, then its system registers.
    pub(super) fn init_cpu(&mut self, affinity: u64) -> Result<(), GicError> {
        let mut redistributor = self.redistributor(affinity)?;
        redistributor.power_on();
        // Fails if the redistributor is awake already.
        let _ = redistributor.mark_core_awake();
        redistributor.configure_default_settings();
        for id in (0..16).map(IntId::sgi) {
            redistributor.set_interrupt_priority(id, DEFAULT_PRIORITY).map_err(|_| GicError::Refused(id))?;
            redistributor.enable_interrupt(id, true).map_err(|_| GicError::Refused(id))?;
        }
        GicCpuInterface::enable_system_register_el1();
        // The other ICC registers are accessible from here on.
        arch::barrier::isb();
        GicCpuInterface::set_priority_mask(0xff);
        GicCpuInterface::enable_group1(true);
        arch::barrier::isb();
        Ok(())
    }

    pub(super) fn configure(
        &mut self,
        interrupt: GicInterrupt,
        priority: u8,
        affinity: u64,
    ) -> Result<(), GicError> {
        let GicInterrupt { id, trigger } = self.checked(interrupt)?;
        let refused = |_| GicError::Refused(id);
        if id.is_private() {
            let mut redistributor = self.redistributor(affinity)?;
            redistributor.set_interrupt_priority(id, priority).map_err(refused)?;
            // SGIs are always edge-triggered.
            return if id.is_sgi() {
                Ok(())
            } else {
                redistributor.set_trigger(id, trigger).map_err(refused)
            };
        }
        self.gicd.set_interrupt_priority(id, priority).map_err(refused)?;
        self.gicd.set_trigger(id, trigger).map_err(refused)?;
        self.gicd.set_routing(id, Some(affinity)).map_err(refused)
    }

    pub(super) fn enable(&mut self, id: IntId, affinity: u64, enable: bool) -> Result<(), GicError> {
        self.checked(GicInterrupt { id, trigger: Trigger::Level })?;
        let refused = |_| GicError::Refused(id);
        if id.is_private() {
            let mut redistributor = self.redistributor(affinity)?;
            redistributor.enable_interrupt(id, enable).map_err(refused)?;
            redistributor.wait_for_pending_write();
        } else {
            self.gicd.enable_interrupt(id, enable).map_err(refused)?;
            self.gicd.wait_for_pending_write();
        }
        Ok(())
    }

    /// Checks that the interrupt is implemented. The kernel uses no extended and no message-based interrupts
    /// on a GICv3.
    fn checked(&self, interrupt: GicInterrupt) -> Result<GicInterrupt, GicError> {
        let id = interrupt.id;
        let spis = self.gicd.typer().num_spis();
        let exists = id.is_sgi() || id.is_ppi() || id.spi_index().is_some_and(|index| index < spis as usize);
        if exists { Ok(interrupt) } else { Err(GicError::NotImplemented(id)) }
    }

    /// The redistributor whose GICR_TYPER has this affinity.
    fn redistributor(&mut self, affinity: u64) -> Result<GicRedistributor<'_>, GicError> {
        for region in &mut self.regions {
            let mut offset = 0;
            while offset + FRAMES <= region.len() {
                let frames = frames_at(region, offset);
                let typer = frames.typer();
                if typer.core_mpidr() == affinity {
                    return Ok(frames_at(region, offset));
                }
                if typer.last_redistributor() {
                    break;
                }
                offset += if typer.virtual_lpis_supported() { 2 * FRAMES } else { FRAMES };
            }
        }
        Err(GicError::NoRedistributor(affinity))
    }
}

/// The redistributor at `offset`, whose frames lie in the region.
fn frames_at(region: &mut MmioWindow, offset: u64) -> GicRedistributor<'_> {
    let address = region.address() + offset;
    let pointer = core::ptr::with_exposed_provenance_mut(address.raw() as usize);
    let pointer = NonNull::new(pointer).expect("a window is not at address 0");
    // SAFETY: mapped registers, since the caller keeps the frames inside the window; `&mut` excludes other
    // pointers to them during its lifetime.
    GicRedistributor::new(unsafe { UniqueMmioPointer::new(pointer) })
}

pub(super) fn acknowledge() -> Option<GicPending> {
    GicPending::from_raw(GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1)?.raw_value())
}

pub(super) fn end(id: IntId) {
    GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
}

pub(super) fn send_sgi(id: IntId, to: SgiDestination) -> Result<(), GicError> {
    let target = match to {
        SgiDestination::Others => SgiTarget::All,
        SgiDestination::One(cpu) => list(cpu.affinity)?,
    };
    GicCpuInterface::send_sgi(id, target, SgiTargetGroup::CurrentGroup1).map_err(|_| GicError::Refused(id))
}

/// The target list of the CPU with this affinity.
fn list(affinity: u64) -> Result<SgiTarget, GicError> {
    let [aff0, affinity1, affinity2, _, affinity3, ..] = affinity.to_le_bytes();
    if aff0 >= 16 {
        return Err(GicError::Unaddressable(affinity));
    }
    Ok(SgiTarget::List { affinity3, affinity2, affinity1, target_list: 1 << aff0 })
}

#[cfg(test)]
mod tests {
    use super::super::Gic;
    use super::super::common::CpuTarget;
    use super::*;
    use crate::fake::FakeRegisters;
    use crate::mmio::TooShort;

    /// Two regions: CPUs 0.0.0.0 and 0.0.0.1, then 1.0.2.3.
    fn fixture() -> (FakeRegisters, FakeRegisters, FakeRegisters, Gic) {
        let (gicd, first, second) =
            (FakeRegisters::new(0x1_0000), FakeRegisters::new(0x4_0000), FakeRegisters::new(0x2_0000));
        gicd.set32(0x4, 8);
        first.set32(0xc, 0);
        first.set32(0x2_000c, 1);
        first.set32(0x2_0008, 1 << 4);
        second.set32(0xc, 0x0100_0203);
        let (gic, _) = Gic::v3(gicd.window(), alloc::vec![first.window(), second.window()]).unwrap();
        (gicd, first, second, gic)
    }

    // The fake system registers are shared by the process: only this test uses them.
    #[test]
    fn redistributor_is_found_by_affinity() {
        let (gicd, first, second, mut gic) = fixture();
        assert_eq!(gicd.get32(0) & 0x12, 0x12, "affinity routing, group 1");
        assert_eq!(gic.init_cpu(2), Err(GicError::NoRedistributor(2)));
        let one = gic.init_cpu(1).unwrap();
        assert_eq!(GicCpuInterface::get_priority_mask(), 0xff);
        assert_eq!(first.get32(0x3_0400), 0xa0a0_a0a0, "software-generated interrupts' priority");
        assert_eq!(first.get32(0x1_0400), 0, "another CPU's");
        let far = gic.init_cpu(0x01_0000_0203).unwrap();
        assert_eq!(second.get32(0x1_0080), !0, "group 1");

        let timer = GicInterrupt { id: IntId::ppi(11), trigger: Trigger::Level };
        gic.configure(timer, 0x90, far).unwrap();
        gic.enable(timer.id, far).unwrap();
        assert_eq!((second.get32(0x1_0100), second.get32(0x1_0418)), (1 << 27, 0x9080_8080));
        assert_eq!(first.get32(0x3_0100) & 1 << 27, 0);

        let event = GicInterrupt { id: IntId::spi(74), trigger: Trigger::Edge };
        gic.configure(event, 0x90, far).unwrap();
        gic.enable(event.id, one).unwrap();
        assert_eq!(gicd.get32(0xc18), 2 << (106 % 16 * 2));
        assert_eq!(gicd.get64(0x6000 + 8 * 106), 0x01_0000_0203);
        assert_eq!(gicd.get32(0x10c), 1 << 10);
        for id in [IntId::spi(256), IntId::espi(0), IntId::lpi(0)] {
            assert_eq!(gic.enable(id, one), Err(GicError::NotImplemented(id)));
        }
    }

    #[test]
    fn sgi_target_list_follows_affinity() {
        let expected = SgiTarget::List { affinity3: 1, affinity2: 0, affinity1: 2, target_list: 1 << 3 };
        assert_eq!(list(0x01_0000_0203), Ok(expected));
        assert_eq!(list(0x10), Err(GicError::Unaddressable(0x10)));
        let cpu = CpuTarget { affinity: 16, mask: 0 };
        assert_eq!(send_sgi(IntId::sgi(1), SgiDestination::One(cpu)), Err(GicError::Unaddressable(16)));
    }

    #[test]
    fn redistributor_search_stops_at_the_end_of_the_region() {
        let (gicd, region) = (FakeRegisters::new(0x1_0000), FakeRegisters::new(0x4_0000));
        let (mut gic, _) = Gic::v3(gicd.window(), alloc::vec![region.window()]).unwrap();
        assert_eq!(gic.init_cpu(7), Err(GicError::NoRedistributor(7)));
        let short = FakeRegisters::new(0x1_0000);
        let error = Gic::v3(gicd.window(), alloc::vec![short.window()]).err();
        assert_eq!(error, Some(GicError::TooShort(TooShort { len: 0x1_0000, wanted: 0x2_0000 })));
    }
}
