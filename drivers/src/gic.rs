//! The interrupt controller: a GICv2 or GICv3 (IHI 0048, IHI 0069) behind one pair of types.
//!
//! [`Gic`] is shared by all CPUs (enables, configuration, targets); it takes `&mut self`, under a lock of the
//! kernel. [`GicInterface`] is per CPU: acknowledging, ending and sending need no lock, are callable from any
//! CPU, and act on that CPU.
//!
//! Order: [`Gic::v2`] or [`Gic::v3`], then [`Gic::init_cpu`] on every CPU for itself, the boot CPU first. All
//! interrupts are disabled at first: [`Gic::configure`], then [`Gic::enable`] them.

mod common;
pub mod its;
mod v2;
pub mod v2m;
mod v3;

use crate::mmio::MmioWindow;
use alloc::vec::Vec;

pub use common::{
    CpuTarget, DEFAULT_PRIORITY, GicError, GicInterrupt, GicPending, IntId, SgiDestination, Trigger,
};

pub use v3::RedistributorFrame;

/// The shared part of the GIC.
pub struct Gic(Version);

enum Version {
    V2(v2::DistributorV2),
    V3(v3::DistributorV3),
}

impl Gic {
    /// A GICv2 with these registers (GICD and GICC). All interrupts are disabled; the distributor forwards.
    pub fn v2(distributor: MmioWindow, cpu_interface: MmioWindow) -> Result<(Self, GicInterface), GicError> {
        let (distributor, interface) = v2::new(distributor, cpu_interface)?;
        Ok((Self(Version::V2(distributor)), GicInterface(InterfaceVersion::V2(interface))))
    }

    /// A GICv3 or v4 with these registers (GICD and the GICR regions). All interrupts are disabled; the
    /// distributor forwards.
    pub fn v3(
        distributor: MmioWindow,
        redistributors: Vec<MmioWindow>,
    ) -> Result<(Self, GicInterface), GicError> {
        let distributor = v3::DistributorV3::new(distributor, redistributors)?;
        Ok((Self(Version::V3(distributor)), GicInterface(InterfaceVersion::V3)))
    }

    /// Initializes the calling CPU, whose affinity (MPIDR_EL1) is `affinity`: its private interrupts except
    /// SGIs are disabled, and its CPU interface forwards all priorities.
    pub fn init_cpu(&mut self, affinity: u64) -> Result<CpuTarget, GicError> {
        match &mut self.0 {
            Version::V2(gic) => Ok(CpuTarget { affinity, mask: gic.init_cpu() }),
            Version::V3(gic) => gic.init_cpu(affinity).map(|()| CpuTarget { affinity, mask: 0 }),
        }
    }

    /// Disables an interrupt and sets its trigger and priority, and for a shared interrupt (SPI) its target.
    /// A private interrupt is configured on `cpu`, which on a GICv2 must be the caller.
    pub fn configure(
        &mut self,
        interrupt: GicInterrupt,
        priority: u8,
        cpu: CpuTarget,
    ) -> Result<(), GicError> {
        self.disable(interrupt.id, cpu)?;
        match &mut self.0 {
            Version::V2(gic) => gic.configure(interrupt, priority, cpu.mask),
            Version::V3(gic) => gic.configure(interrupt, priority, cpu.affinity),
        }
    }

    /// Enables an interrupt; a private one on `cpu`, which on a GICv2 must be the caller.
    pub fn enable(&mut self, id: IntId, cpu: CpuTarget) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.enable(id, true),
            Version::V3(gic) => gic.enable(id, cpu.affinity, true),
        }
    }

    /// Clears the pending state of a disabled SPI of a GICv2.
    pub fn clear_pending(&mut self, id: IntId) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.clear_pending(id),
            Version::V3(_) => Err(GicError::Refused(id)),
        }
    }

    /// GICD_TYPER of a GICv3, which describes its LPIs.
    pub fn v3_typer(&self) -> Option<u32> {
        match &self.0 {
            Version::V2(_) => None,
            Version::V3(gic) => Some(gic.typer()),
        }
    }

    /// The redistributor of a CPU of a GICv3.
    pub fn redistributor(&mut self, cpu: CpuTarget) -> Result<RedistributorFrame<'_>, GicError> {
        match &mut self.0 {
            Version::V2(_) => Err(GicError::NoRedistributor(cpu.affinity)),
            Version::V3(gic) => gic.find_redistributor(cpu.affinity),
        }
    }

    /// Disables an interrupt. If it is already pending at a CPU interface it may be received once more.
    pub fn disable(&mut self, id: IntId, cpu: CpuTarget) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.enable(id, false),
            Version::V3(gic) => gic.enable(id, cpu.affinity, false),
        }
    }
}

/// The per-CPU part of the GIC.
pub struct GicInterface(InterfaceVersion);

enum InterfaceVersion {
    V2(v2::InterfaceV2),
    V3,
}

impl GicInterface {
    /// Acknowledges the most urgent pending interrupt of this CPU; `None` for a spurious interrupt, which
    /// needs no end. Later reads are not performed before the acknowledgement.
    pub fn acknowledge(&self) -> Option<GicPending> {
        let pending = match &self.0 {
            InterfaceVersion::V2(interface) => interface.acknowledge(),
            InterfaceVersion::V3 => v3::acknowledge(),
        };
        // The acknowledgement takes effect before the handler's accesses (IHI 0069, 4.1).
        arch::barrier::dsb_sy();
        pending
    }

    /// Ends a handled interrupt, after all stores of the handler have reached the device.
    pub fn end(&self, pending: GicPending) {
        // The device must deassert a level-triggered interrupt before the GIC samples it again.
        arch::barrier::dsb_sy();
        match &self.0 {
            InterfaceVersion::V2(interface) => interface.end(pending.raw),
            InterfaceVersion::V3 => v3::end(pending.id),
        }
        arch::barrier::isb();
    }

    /// Sends SGI `number`, which must be below 16. The handlers observe all earlier stores.
    pub fn send_sgi(&self, number: u32, to: SgiDestination) -> Result<(), GicError> {
        let id = IntId::sgi(number);
        arch::barrier::dsb_ishst();
        match &self.0 {
            InterfaceVersion::V2(interface) => {
                interface.send_sgi(number, to);
                Ok(())
            }
            InterfaceVersion::V3 => {
                v3::send_sgi(id, to)?;
                arch::barrier::isb();
                Ok(())
            }
        }
    }
}
