//! GICv2 (IHI 0048B).
//!
//! `arm_gic::gicv2` is not used: it overwrites neighbouring priorities with 0, returns the source CPU of an
//! SGI as part of its number, has no interrupt targets and no initialization of secondary CPUs, and enables
//! group 1 by a bit that the non-secure view does not have. The registers are few.

use super::common::{DEFAULT_PRIORITY, GicError, GicInterrupt, GicPending, IntId, SgiDestination, Trigger};
use crate::mmio::{Mmio, MmioWindow, ReadOnly};
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadWrite, WriteOnly};

/// GICD (IHI 0048B, 4.3). The parts of `isenabler` and the like for interrupts 0 to 31 are banked per CPU.
#[repr(C)]
struct Registers {
    ctlr: ReadWrite<u32>,
    typer: ReadOnly<u32>,
    after_typer: [u32; 30],
    igroupr: [ReadWrite<u32>; 32],
    isenabler: [ReadWrite<u32>; 32],
    icenabler: [ReadWrite<u32>; 32],
    ispendr: [ReadWrite<u32>; 32],
    icpendr: [ReadWrite<u32>; 32],
    isactiver: [ReadWrite<u32>; 32],
    icactiver: [ReadWrite<u32>; 32],
    ipriorityr: [ReadWrite<u8>; 1024],
    itargetsr: [ReadWrite<u8>; 1024],
    icfgr: [ReadWrite<u32>; 64],
    after_icfgr: [u32; 128],
    sgir: WriteOnly<u32>,
}
const _: () = assert!(offset_of!(Registers, igroupr) == 0x80 && offset_of!(Registers, icactiver) == 0x380);
const _: () = assert!(offset_of!(Registers, itargetsr) == 0x800 && offset_of!(Registers, sgir) == 0xf00);

/// GICC (IHI 0048B, 4.4), banked per CPU.
#[repr(C)]
struct InterfaceRegisters {
    ctlr: ReadWrite<u32>,
    pmr: ReadWrite<u32>,
    bpr: ReadWrite<u32>,
    iar: ReadOnly<u32>,
    eoir: WriteOnly<u32>,
    after_eoir: [u32; 47],
    apr: [ReadWrite<u32>; 4],
}
const _: () =
    assert!(offset_of!(InterfaceRegisters, eoir) == 0x10 && offset_of!(InterfaceRegisters, apr) == 0xd0);

/// GICD_CTLR and GICC_CTLR: forward the kernel's group. That is group 1 for a non-secure kernel and group 0
/// without security extensions; the bit is the same.
const ENABLE: u32 = 1;
/// GICD_SGIR: all CPUs except the sender.
const SGI_OTHERS: u32 = 0b01 << 24;

pub(super) struct DistributorV2 {
    registers: Mmio<Registers>,
    interface: Mmio<InterfaceRegisters>,
    /// Number of implemented interrupts.
    count: u32,
}

/// The CPU interface, and the distributor's GICD_SGIR, for concurrent use by all CPUs.
pub(super) struct InterfaceV2 {
    registers: Mmio<InterfaceRegisters>,
    distributor: Mmio<Registers>,
}

// SAFETY: the registers of the CPU interface are banked per CPU; of the distributor only GICD_SGIR is used,
// where each write is a complete request.
unsafe impl Sync for InterfaceV2 {}

pub(super) fn new(
    distributor: MmioWindow,
    interface: MmioWindow,
) -> Result<(DistributorV2, InterfaceV2), GicError> {
    distributor.at_least(size_of::<Registers>() as u64)?;
    interface.at_least(size_of::<InterfaceRegisters>() as u64)?;
    let (gicd, gicc) = (distributor.address(), interface.address());
    // SAFETY: both structs contain register fields only; the windows, whose lengths were checked, guarantee
    // the mapping and are owned by this function. The second pair shares it as `Sync for InterfaceV2`
    // explains.
    let (registers, interface) = unsafe { (Mmio::<Registers>::new(gicd), Mmio::new(gicc)) };
    // SAFETY: as above.
    let shared = unsafe { InterfaceV2 { registers: Mmio::new(gicc), distributor: Mmio::new(gicd) } };
    let count = ((registers.typer.get() & 0x1f) + 1) * 32;
    let mut gic = DistributorV2 { registers, interface, count: count.min(1020) };
    gic.init();
    Ok((gic, shared))
}

impl DistributorV2 {
    /// Disables all SPIs, clears their pending and active state, and enables forwarding.
    fn init(&mut self) {
        self.registers.ctlr.set(0);
        for word in 1..self.count.div_ceil(32) as usize {
            self.disable_word(word);
        }
        for id in 32..self.count as usize {
            self.registers.ipriorityr[id].set(DEFAULT_PRIORITY);
        }
        self.registers.ctlr.set(ENABLE);
    }

    /// Disables 32 interrupts and clears their pending and active state.
    fn disable_word(&mut self, word: usize) {
        self.registers.icenabler[word].set(u32::MAX);
        self.registers.icpendr[word].set(u32::MAX);
        self.registers.icactiver[word].set(u32::MAX);
    }

    /// Initializes this CPU, and returns its bit in target masks.
    pub(super) fn init_cpu(&mut self) -> u8 {
        self.disable_word(0);
        for id in 0..32 {
            self.registers.ipriorityr[id].set(DEFAULT_PRIORITY);
        }
        // SGIs are enabled permanently, where they can be disabled at all.
        self.registers.isenabler[0].set(0xffff);
        // An earlier kernel may have left an active priority or a large binary point, which hold back
        // interrupts.
        self.interface.apr.iter().for_each(|register| register.set(0));
        self.interface.bpr.set(0);
        self.interface.pmr.set(0xff);
        self.interface.ctlr.set(ENABLE);
        // The target registers of private interrupts read as the CPU's own bit; on a uniprocessor possibly as
        // 0 (4.3.12).
        let mask = (0..32).fold(0, |mask, id| mask | self.registers.itargetsr[id].get());
        if mask == 0 { 1 } else { mask }
    }

    pub(super) fn configure(
        &mut self,
        interrupt: GicInterrupt,
        priority: u8,
        mask: u8,
    ) -> Result<(), GicError> {
        let id = self.checked(interrupt.id)?;
        let (word, bit) = (id / 16, 2 << (id % 16 * 2));
        let others = self.registers.icfgr[word].get() & !bit;
        // The bits of SGIs, and often those of PPIs, are read-only.
        self.registers.icfgr[word].set(if interrupt.trigger == Trigger::Edge {
            others | bit
        } else {
            others
        });
        self.registers.ipriorityr[id].set(priority);
        if id >= 32 {
            self.registers.itargetsr[id].set(mask);
        }
        Ok(())
    }

    pub(super) fn enable(&mut self, id: IntId, enable: bool) -> Result<(), GicError> {
        let at = self.checked(id)?;
        let (word, bit) = (at / 32, 1 << (at % 32));
        if enable {
            self.registers.isenabler[word].set(bit);
        } else {
            self.registers.icenabler[word].set(bit);
        }
        Ok(())
    }

    pub(super) fn clear_pending(&mut self, id: IntId) -> Result<(), GicError> {
        let at = self.checked(id)?;
        self.registers.icpendr[at / 32].set(1 << (at % 32));
        Ok(())
    }

    fn checked(&self, id: IntId) -> Result<usize, GicError> {
        let number = id.raw_value();
        if number < self.count { Ok(number as usize) } else { Err(GicError::NotImplemented(id)) }
    }
}

impl InterfaceV2 {
    pub(super) fn acknowledge(&self) -> Option<GicPending> {
        let raw = self.registers.iar.get();
        // Bits 12 to 10 are the source CPU of an SGI.
        GicPending::from_raw(raw & 0x3ff).map(|pending| GicPending { raw, ..pending })
    }

    pub(super) fn end(&self, raw: u32) {
        self.registers.eoir.set(raw);
    }

    pub(super) fn send_sgi(&self, number: u32, to: SgiDestination) {
        let target = match to {
            SgiDestination::One(cpu) => u32::from(cpu.mask) << 16,
            SgiDestination::Others => SGI_OTHERS,
        };
        self.distributor.sgir.set(target | number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::common::CpuTarget;
    use super::super::{Gic, GicInterface};
    use super::*;
    use crate::fake::FakeRegisters;
    use crate::mmio::TooShort;

    struct Fixture {
        gicd: FakeRegisters,
        gicc: FakeRegisters,
        gic: Gic,
        interface: GicInterface,
    }

    fn fixture() -> Fixture {
        let (gicd, gicc) = (FakeRegisters::new(0x1000), FakeRegisters::new(0x1000));
        gicd.set32(0x4, 8);
        gicd.set32(0x800, 0x0202_0202);
        let (gic, interface) = Gic::v2(gicd.window(), gicc.window()).unwrap();
        Fixture { gicd, gicc, gic, interface }
    }

    fn edge(id: IntId) -> GicInterrupt {
        GicInterrupt { id, trigger: Trigger::Edge }
    }

    #[test]
    fn init_disables_all_interrupts_and_sets_the_default_priority() {
        let Fixture { gicd, gicc, mut gic, .. } = fixture();
        assert_eq!((gicd.get32(0x184), gicd.get32(0x284), gicd.get32(0x384), gicd.get32(0)), (!0, !0, !0, 1));
        assert_eq!((gicd.get32(0x420), gicd.get32(0x51c), gicd.get32(0x520)), (0xa0a0_a0a0, 0xa0a0_a0a0, 0));
        assert_eq!((gicd.get32(0x180), gicc.get32(0)), (0, 0), "private interrupts are banked per CPU");
        // The state of an earlier kernel: EOImode, a large binary point, an active priority.
        [(0, 1 << 9 | 1), (8, 7), (0xd0, 1 << 20)].into_iter().for_each(|(at, value)| gicc.set32(at, value));
        assert_eq!(gic.init_cpu(1), Ok(CpuTarget { affinity: 1, mask: 2 }));
        assert_eq!((gicd.get32(0x180), gicd.get32(0x100), gicd.get32(0x41c)), (!0, 0xffff, 0xa0a0_a0a0));
        assert_eq!((gicc.get32(0), gicc.get32(4), gicc.get32(8), gicc.get32(0xd0)), (1, 0xff, 0, 0));
    }

    #[test]
    fn configure_preserves_the_fields_of_other_interrupts() {
        let Fixture { gicd, mut gic, .. } = fixture();
        let cpu = gic.init_cpu(1).unwrap();
        gicd.set32(0xc00 + 4 * 6, 0x0202_0202);
        gic.configure(edge(IntId::spi(77)), 0x80, cpu).unwrap();
        gic.enable(IntId::spi(77), cpu).unwrap();
        gicd.set32(0x28c, 0);
        gic.clear_pending(IntId::spi(77)).unwrap();
        let id = 77 + 32;
        assert_eq!(gicd.get32(0x28c), 1 << (id % 32));
        assert_eq!(gicd.get32(0xc00 + 4 * 6), 0x0a02_0202);
        assert_eq!(gicd.get32(0x400 + id / 4 * 4), 0xa0a0_80a0);
        assert_eq!(gicd.get32(0x800 + id / 4 * 4), 0x0000_0200);
        assert_eq!((gicd.get32(0x10c), gicd.get32(0x18c)), (1 << (id % 32), 1 << (id % 32)));
        gic.configure(GicInterrupt { id: IntId::spi(77), trigger: Trigger::Level }, DEFAULT_PRIORITY, cpu)
            .unwrap();
        assert_eq!(gicd.get32(0xc00 + 4 * 6), 0x0202_0202);
    }

    #[test]
    fn unimplemented_interrupt_is_rejected() {
        let Fixture { mut gic, .. } = fixture();
        let cpu = gic.init_cpu(0).unwrap();
        assert!(gic.enable(IntId::spi(255), cpu).is_ok());
        for id in [IntId::spi(256), IntId::espi(0), IntId::SPECIAL_NONE] {
            assert_eq!(gic.enable(id, cpu), Err(GicError::NotImplemented(id)));
            assert_eq!(gic.configure(edge(id), 0, cpu), Err(GicError::NotImplemented(id)));
        }
    }

    #[test]
    fn end_of_sgi_includes_the_source_cpu() {
        let Fixture { gicc, interface, .. } = fixture();
        gicc.set32(0xc, 2 << 10 | 5);
        let pending = interface.acknowledge().unwrap();
        assert_eq!(pending.id(), IntId::sgi(5));
        interface.end(pending);
        assert_eq!(gicc.get32(0x10), 2 << 10 | 5);
        for spurious in [1020, 1022, 1023] {
            gicc.set32(0xc, spurious);
            assert_eq!(interface.acknowledge(), None);
        }
    }

    #[test]
    fn sgi_is_sent_to_one_cpu_or_to_all_others() {
        let Fixture { gicd, mut gic, interface, .. } = fixture();
        let cpu = gic.init_cpu(0).unwrap();
        interface.send_sgi(3, SgiDestination::One(cpu)).unwrap();
        assert_eq!(gicd.get32(0xf00), 2 << 16 | 3);
        interface.send_sgi(15, SgiDestination::Others).unwrap();
        assert_eq!(gicd.get32(0xf00), 1 << 24 | 15);
    }

    #[test]
    fn short_register_window_is_rejected() {
        let (gicd, gicc) = (FakeRegisters::new(0xf00), FakeRegisters::new(0x14));
        let error = Gic::v2(gicd.window(), gicc.window()).err();
        assert_eq!(error, Some(GicError::TooShort(TooShort { len: 0xf00, wanted: 0xf04 })));
    }
}
