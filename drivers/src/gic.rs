//! The interrupt controller: a GICv2 or GICv3 (IHI 0048, IHI 0069) behind one pair of types.
//!
//! [`Gic`] is shared by all CPUs (enables, configuration, targets); it takes `&mut self`, under a lock of the kernel.
//! [`CpuInterface`] is per CPU: acknowledging, ending and sending need no lock, are callable from any CPU, and act on that
//! CPU.
//!
//! Order: [`Gic::v2`] or [`Gic::v3`], then [`Gic::init_cpu`] on every CPU for itself, the boot CPU first. All interrupts
//! are disabled at first: [`Gic::configure`], then [`Gic::enable`] them.

mod v2;
mod v3;

use crate::mmio::{MmioWindow, TooShort};
use alloc::vec::Vec;
use core::fmt;

pub use arm_gic::{IntId, Trigger};

/// Initial priority of every interrupt; lower numbers are more urgent. The upper half is available to a non-secure
/// kernel.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

/// An interrupt and its trigger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Its number (INTID).
    pub id: IntId,
    /// Edge (a pulse, latched by the GIC) or level (asserted until the device is served).
    pub trigger: Trigger,
}

/// The GIC refused a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GicError {
    /// A register window is too short.
    TooShort(TooShort),
    /// No redistributor has this affinity.
    NoRedistributor(u64),
    /// The interrupt is not implemented.
    NotImplemented(IntId),
    /// The CPU is not a valid target of software-generated interrupts (SGIs): its Aff0 is 16 or more.
    Unaddressable(u64),
    /// The redistributor or distributor refused the request.
    Refused(IntId),
}

impl fmt::Display for GicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(error) => error.fmt(f),
            Self::NoRedistributor(affinity) => write!(f, "no redistributor for CPU {affinity:#x}"),
            Self::NotImplemented(id) => write!(f, "the GIC has no interrupt {id:?}"),
            Self::Unaddressable(affinity) => write!(f, "CPU {affinity:#x} cannot get software interrupts"),
            Self::Refused(id) => write!(f, "the GIC refused {id:?}"),
        }
    }
}

impl core::error::Error for GicError {}

impl From<TooShort> for GicError {
    fn from(error: TooShort) -> Self {
        Self::TooShort(error)
    }
}

/// A CPU as an interrupt target, created by [`Gic::init_cpu`] on that CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuTarget {
    /// The affinity fields of its MPIDR_EL1.
    affinity: u64,
    /// Its bit in a GICv2's target masks; 0 on a GICv3.
    mask: u8,
}

/// Destination of an SGI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiTo {
    /// This CPU.
    One(CpuTarget),
    /// Every CPU except the sender.
    Others,
}

/// The shared part of the GIC.
pub struct Gic(Version);

enum Version {
    V2(v2::Distributor),
    V3(v3::Distributor),
}

impl Gic {
    /// A GICv2 with these registers (GICD and GICC). All interrupts are disabled; the distributor forwards.
    pub fn v2(distributor: MmioWindow, cpu_interface: MmioWindow) -> Result<(Self, CpuInterface), GicError> {
        let (distributor, interface) = v2::new(distributor, cpu_interface)?;
        Ok((Self(Version::V2(distributor)), CpuInterface(Interface::V2(interface))))
    }

    /// A GICv3 or v4 with these registers (GICD and the GICR regions). All interrupts are disabled; the distributor forwards.
    pub fn v3(
        distributor: MmioWindow,
        redistributors: Vec<MmioWindow>,
    ) -> Result<(Self, CpuInterface), GicError> {
        let distributor = v3::Distributor::new(distributor, redistributors)?;
        Ok((Self(Version::V3(distributor)), CpuInterface(Interface::V3)))
    }

    /// Initializes the calling CPU, whose affinity (MPIDR_EL1) is `affinity`: its private interrupts except SGIs are disabled,
    /// and its CPU interface forwards all priorities.
    pub fn init_cpu(&mut self, affinity: u64) -> Result<CpuTarget, GicError> {
        match &mut self.0 {
            Version::V2(gic) => Ok(CpuTarget { affinity, mask: gic.init_cpu() }),
            Version::V3(gic) => gic.init_cpu(affinity).map(|()| CpuTarget { affinity, mask: 0 }),
        }
    }

    /// Disables an interrupt and sets its trigger and priority, and for a shared interrupt (SPI) its target. A private
    /// interrupt is configured on `cpu`, which on a GICv2 must be the caller.
    pub fn configure(&mut self, interrupt: Interrupt, priority: u8, cpu: CpuTarget) -> Result<(), GicError> {
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

    /// Disables an interrupt. If it is already pending at a CPU interface it may be received once more.
    pub fn disable(&mut self, id: IntId, cpu: CpuTarget) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.enable(id, false),
            Version::V3(gic) => gic.enable(id, cpu.affinity, false),
        }
    }
}

/// An acknowledged interrupt, to be ended after it was handled.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an interrupt that is not ended blocks all others of its priority"]
pub struct Pending {
    id: IntId,
    /// The value of the acknowledge register, which a GICv2 expects in EOIR.
    raw: u32,
}

impl Pending {
    /// Its number.
    pub fn id(&self) -> IntId {
        self.id
    }
}

/// The per-CPU part of the GIC.
pub struct CpuInterface(Interface);

enum Interface {
    V2(v2::Interface),
    V3,
}

impl CpuInterface {
    /// Acknowledges the most urgent pending interrupt of this CPU; `None` for a spurious interrupt, which needs no end. Later
    /// reads are not performed before the acknowledgement.
    pub fn acknowledge(&self) -> Option<Pending> {
        let pending = match &self.0 {
            Interface::V2(interface) => interface.acknowledge(),
            Interface::V3 => v3::acknowledge(),
        };
        // The acknowledgement takes effect before the handler's accesses (IHI 0069, 4.1).
        arch::barrier::dsb_sy();
        pending
    }

    /// Ends a handled interrupt, after all stores of the handler have reached the device.
    pub fn end(&self, pending: Pending) {
        // The device must deassert a level-triggered interrupt before the GIC samples it again.
        arch::barrier::dsb_sy();
        match &self.0 {
            Interface::V2(interface) => interface.end(pending.raw),
            Interface::V3 => v3::end(pending.id),
        }
        arch::barrier::isb();
    }

    /// Sends SGI `number`, which must be below 16. The handlers observe all earlier stores.
    pub fn send_sgi(&self, number: u32, to: SgiTo) -> Result<(), GicError> {
        let id = IntId::sgi(number);
        arch::barrier::dsb_ishst();
        match &self.0 {
            Interface::V2(interface) => {
                interface.send_sgi(number, to);
                Ok(())
            }
            Interface::V3 => {
                v3::send_sgi(id, to)?;
                arch::barrier::isb();
                Ok(())
            }
        }
    }
}

/// The interrupt in a value of the acknowledge register, unless it is a special number.
fn real(raw: u32) -> Option<Pending> {
    let id = IntId::try_from(raw & 0xff_ffff).ok()?;
    let special = (IntId::SPECIAL_SECURE..=IntId::SPECIAL_NONE).contains(&id);
    (!special).then_some(Pending { id, raw })
}
