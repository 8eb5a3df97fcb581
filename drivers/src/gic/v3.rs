//! GICv3 and v4 (IHI 0069) on top of the `arm-gic` crate; the CPU interface consists of system registers.
//!
//! The waits of that crate (GICR_WAKER, GICR_PWRR, RWP after an enable) have no time limit, unlike
//! [`poll_until`]: the kernel does not run without a redistributor that wakes up.

use super::common::{DEFAULT_PRIORITY, GicError, GicInterrupt, GicPending, IntId, SgiDestination, Trigger};
use crate::mmio::{MmioWindow, RegisterAccess};
use crate::poll::poll_until;
use alloc::vec::Vec;
use arch::timer::Deadline;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicDistributor, GicRedistributor, SgiTarget, SgiTargetGroup};
use arm_gic::{InterruptGroup, UniqueMmioPointer};
use arm_sysregs::el1::accessors::{
    read_icc_ctlr_el1, write_icc_ap1r0_el1, write_icc_ap1r1_el1, write_icc_ap1r2_el1, write_icc_ap1r3_el1,
    write_icc_bpr1_el1, write_icc_ctlr_el1,
};
use arm_sysregs::el1::registers::{IccAp1r0El1, IccBpr1El1, IccCtlrEl1};
use core::ptr::NonNull;

/// Size of a redistributor: the frames RD and SGI, twice that with virtual LPIs.
const FRAMES: u64 = size_of::<GicrSgi>() as u64;

/// Offset of the SGI frame of a redistributor, whose registers for SGIs and PPIs have the offsets of the
/// distributor's.
const SGI_FRAME: u64 = 0x1_0000;
/// The limit on the effect of a register write, GICD_CTLR.RWP.
const RWP_TIMEOUT_NS: u64 = 1_000_000_000;
const GICD_CTLR: u64 = 0;
const GICD_TYPER: u64 = 0x4;
const GICR_TYPER: u64 = 0x8;
const ICENABLER: u64 = 0x180;
const ICPENDR: u64 = 0x280;
const ICACTIVER: u64 = 0x380;

pub(super) struct DistributorV3 {
    gicd: GicDistributor<'static>,
    regions: Vec<MmioWindow>,
    /// GICD_TYPER.
    typer: u32,
}

/// The registers of a CPU's redistributor, by their offset in frame RD.
pub struct RedistributorFrame<'a> {
    region: &'a mut MmioWindow,
    offset: u64,
    index: usize,
}

impl RedistributorFrame<'_> {
    /// Its place: the index of its region, and the offset there.
    pub fn place(&self) -> (usize, u64) {
        (self.index, self.offset)
    }

    /// GICR_TYPER.Processor_Number.
    pub fn number(&self) -> u16 {
        (self.read32(GICR_TYPER) >> 8) as u16
    }
}

impl RegisterAccess for RedistributorFrame<'_> {
    fn read32(&self, offset: u64) -> u32 {
        self.region.read32(self.offset + offset)
    }
    fn read64(&self, offset: u64) -> u64 {
        self.region.read64(self.offset + offset)
    }
    fn write32(&mut self, offset: u64, value: u32) {
        self.region.write32(self.offset + offset, value);
    }
    fn write64(&mut self, offset: u64, value: u64) {
        self.region.write64(self.offset + offset, value);
    }
}

// SAFETY: both are pointers to registers that any CPU may access; `&mut self` excludes concurrent accesses.
unsafe impl Send for DistributorV3 {}

impl DistributorV3 {
    pub(super) fn new(mut registers: MmioWindow, regions: Vec<MmioWindow>) -> Result<Self, GicError> {
        registers.at_least(size_of::<Gicd>() as u64)?;
        regions.iter().try_for_each(|region| region.at_least(FRAMES))?;
        disable_spis(&mut registers)?;
        let typer = registers.read32(GICD_TYPER);
        let pointer = core::ptr::with_exposed_provenance_mut(registers.address().raw() as usize);
        let pointer = NonNull::new(pointer).expect("a window is not at address 0");
        // SAFETY: mapped registers of at least this size, as the window guarantees (checked above), which
        // this function owns and accesses through this pointer only.
        let gicd = GicDistributor::new(unsafe { UniqueMmioPointer::new(pointer) });
        let mut gic = Self { gicd, regions, typer };
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
        let RedistributorFrame { region, offset, .. } = self.find_redistributor(affinity)?;
        clear_state(region, offset + SGI_FRAME, 0);
        let mut redistributor = self.redistributor(affinity)?;
        for id in (0..16).map(IntId::sgi) {
            redistributor.set_interrupt_priority(id, DEFAULT_PRIORITY).map_err(|_| GicError::Refused(id))?;
            redistributor.enable_interrupt(id, true).map_err(|_| GicError::Refused(id))?;
        }
        GicCpuInterface::enable_system_register_el1();
        // The other ICC registers are accessible from here on.
        arch::barrier::isb();
        reset_cpu_interface();
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
        self.find_redistributor(affinity).map(|found| frames_at(found.region, found.offset))
    }

    /// GICD_TYPER.
    pub(super) fn typer(&self) -> u32 {
        self.typer
    }

    /// The registers of the redistributor with this affinity.
    pub(super) fn find_redistributor(&mut self, affinity: u64) -> Result<RedistributorFrame<'_>, GicError> {
        for (index, region) in self.regions.iter_mut().enumerate() {
            let mut offset = 0;
            while offset + FRAMES <= region.len() {
                let frames = frames_at(region, offset);
                let typer = frames.typer();
                if typer.core_mpidr() == affinity {
                    return Ok(RedistributorFrame { region, offset, index });
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

/// Disables all SPIs, and clears their pending and active state: an interrupt that an earlier kernel left
/// active is never signalled again.
fn disable_spis(registers: &mut MmioWindow) -> Result<(), GicError> {
    let words = 1..=u64::from(registers.read32(GICD_TYPER) & 0x1f);
    words.clone().for_each(|word| registers.write32(ICENABLER + 4 * word, u32::MAX));
    // RWP: an interrupt may be signalled until the disabling is complete (IHI 0069, 12.9.4).
    let deadline = Deadline::in_ns(RWP_TIMEOUT_NS);
    poll_until(|| deadline.passed(), || (registers.read32(GICD_CTLR) >> 31 == 0).then_some(()))
        .map_err(|_| GicError::WritePending)?;
    words.for_each(|word| clear_state(registers, 0, word));
    Ok(())
}

/// Clears the pending and active state of 32 disabled interrupts of the frame at `frame`.
fn clear_state(registers: &mut MmioWindow, frame: u64, word: u64) {
    registers.write32(frame + ICPENDR + 4 * word, u32::MAX);
    registers.write32(frame + ICACTIVER + 4 * word, u32::MAX);
}

/// Resets the state that an earlier kernel may have left in this CPU's interface: with EOImode = 1, a write
/// to ICC_EOIR1_EL1 does not deactivate the interrupt; with a set bit of an active priorities register or a
/// large binary point, interrupts of that priority and below are not signalled (IHI 0069, 4.8.1, 4.8.6).
fn reset_cpu_interface() {
    // CBPR, EOImode and PMHE are 0; the other fields are read-only.
    write_icc_ctlr_el1(IccCtlrEl1::empty());
    write_icc_bpr1_el1(IccBpr1El1::empty());
    let priority_bits = read_icc_ctlr_el1().pribits() + 1;
    // SAFETY: 0 is the reset value: no interrupt is active. IRQs are masked, and none was acknowledged on
    // this CPU since the kernel started. The registers from 1 on exist with 6 and 7 priority bits.
    unsafe {
        write_icc_ap1r0_el1(IccAp1r0El1::empty());
        if priority_bits >= 6 {
            write_icc_ap1r1_el1(0);
        }
        if priority_bits >= 7 {
            write_icc_ap1r2_el1(0);
            write_icc_ap1r3_el1(0);
        }
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
    use arm_sysregs::el1::fake::SYSREGS;

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

    fn leave_state_of_an_earlier_kernel() {
        let mut registers = SYSREGS.lock().unwrap();
        registers.icc_ctlr_el1 = IccCtlrEl1::CBPR | IccCtlrEl1::EOIMODE;
        registers.icc_bpr1_el1 = IccBpr1El1::empty().with_binarypoint(7);
        registers.icc_ap1r0_el1 = IccAp1r0El1::from_bits_retain(1 << 20);
    }

    fn assert_cpu_interface_is_reset() {
        let registers = SYSREGS.lock().unwrap();
        assert_eq!(registers.icc_ctlr_el1, IccCtlrEl1::empty(), "EOI deactivates");
        assert_eq!(registers.icc_bpr1_el1, IccBpr1El1::empty());
        assert_eq!(registers.icc_ap1r0_el1, IccAp1r0El1::empty(), "no active priority");
    }

    // The fake system registers are shared by the process: only this test uses them.
    #[test]
    fn redistributor_is_found_by_affinity() {
        let (gicd, first, second, mut gic) = fixture();
        assert_eq!(gicd.get32(0) & 0x12, 0x12, "affinity routing, group 1");
        assert_eq!(gic.init_cpu(2), Err(GicError::NoRedistributor(2)));
        leave_state_of_an_earlier_kernel();
        let one = gic.init_cpu(1).unwrap();
        assert_eq!(GicCpuInterface::get_priority_mask(), 0xff);
        assert_cpu_interface_is_reset();
        assert_eq!((first.get32(0x3_0280), first.get32(0x3_0380)), (!0, !0), "nothing pending or active");
        assert_eq!(gicd.get32(0x284) & gicd.get32(0x3a0), !0, "SPIs from 32 to 287");
        assert_eq!((gicd.get32(0x280), gicd.get32(0x3a4)), (0, 0), "no other SPIs");
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
    fn state_of_the_last_spis_is_cleared() {
        let (gicd, region) = (FakeRegisters::new(0x1_0000), FakeRegisters::new(0x2_0000));
        gicd.set32(0x4, 31);
        let _ = Gic::v3(gicd.window(), alloc::vec![region.window()]).unwrap();
        // SPIs 992 to 1019, the last that GICD_TYPER.ITLinesNumber can describe.
        assert_eq!((gicd.get32(0x2fc), gicd.get32(0x3fc)), (!0, !0), "GICD_ICPENDR31, GICD_ICACTIVER31");
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
