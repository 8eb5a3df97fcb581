//! The interrupt controller: a GICv2 or GICv3 (IHI 0048, IHI 0069) behind one pair of types.
//!
//! [`Gic`] is what all CPUs share (which interrupt is enabled, how and where to); it takes `&mut self`, so the kernel
//! keeps it under a lock. [`CpuInterface`] is what each CPU has of its own: acknowledging, ending and sending need no
//! lock and may be called from any CPU, each acting on itself.
//!
//! Order: [`Gic::v2`] or [`Gic::v3`], then [`Gic::init_cpu`] on every CPU, by itself and the boot CPU first. All
//! interrupts start disabled; [`Gic::configure`] one, then [`Gic::enable`] it.

mod v2;
mod v3;

use crate::mmio::{MmioWindow, TooShort};
use alloc::vec::Vec;
use core::fmt;

pub use arm_gic::{IntId, Trigger};

/// The priority that every interrupt starts with; lower numbers are more urgent. The upper half is what
/// a non-secure kernel may use.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

/// An interrupt and how its line signals it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Its number at the GIC.
    pub id: IntId,
    /// By an edge (a pulse, latched by the GIC) or by a level (held until the device is served).
    pub trigger: Trigger,
}

/// What the GIC cannot do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GicError {
    /// There are too few registers.
    TooShort(TooShort),
    /// No redistributor belongs to the CPU with this affinity.
    NoRedistributor(u64),
    /// This GIC does not implement the interrupt.
    NotImplemented(IntId),
    /// The CPU cannot be addressed by a software-generated interrupt: its Aff0 is 16 or more.
    Unaddressable(u64),
    /// The redistributor's or distributor's registers refused it.
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

/// A CPU, as the GIC addresses it: made by [`Gic::init_cpu`] on that CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuTarget {
    /// The affinity fields of its MPIDR_EL1.
    affinity: u64,
    /// Its bit in a GICv2's target masks; 0 on a GICv3.
    mask: u8,
}

/// Who gets a software-generated interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiTo {
    /// This CPU.
    One(CpuTarget),
    /// Every CPU but the one that sends it.
    Others,
}

/// The shared part of the interrupt controller.
pub struct Gic(Version);

enum Version {
    V2(v2::Distributor),
    V3(v3::Distributor),
}

impl Gic {
    /// A GICv2 with these registers (GICD and GICC). Everything is disabled, and the distributor forwards.
    pub fn v2(distributor: MmioWindow, cpu_interface: MmioWindow) -> Result<(Self, CpuInterface), GicError> {
        let (distributor, interface) = v2::new(distributor, cpu_interface)?;
        Ok((Self(Version::V2(distributor)), CpuInterface(Interface::V2(interface))))
    }

    /// A GICv3 or v4 with these registers (GICD and the GICR regions). Everything is disabled, and the distributor
    /// forwards.
    pub fn v3(
        distributor: MmioWindow,
        redistributors: Vec<MmioWindow>,
    ) -> Result<(Self, CpuInterface), GicError> {
        let distributor = v3::Distributor::new(distributor, redistributors)?;
        Ok((Self(Version::V3(distributor)), CpuInterface(Interface::V3)))
    }

    /// Readies the CPU that calls this, whose affinity (MPIDR_EL1) this is: its private interrupts are disabled but
    /// for the software-generated ones, and its interface forwards all priorities.
    pub fn init_cpu(&mut self, affinity: u64) -> Result<CpuTarget, GicError> {
        match &mut self.0 {
            Version::V2(gic) => Ok(CpuTarget { affinity, mask: gic.init_cpu() }),
            Version::V3(gic) => gic.init_cpu(affinity).map(|()| CpuTarget { affinity, mask: 0 }),
        }
    }

    /// Sets trigger and priority of a disabled interrupt, and for a shared one the CPU it goes to. A private one is
    /// configured on `cpu`, which on a GICv2 must be the caller. Disables it first if it is not.
    pub fn configure(&mut self, interrupt: Interrupt, priority: u8, cpu: CpuTarget) -> Result<(), GicError> {
        self.disable(interrupt.id, cpu)?;
        match &mut self.0 {
            Version::V2(gic) => gic.configure(interrupt, priority, cpu.mask),
            Version::V3(gic) => gic.configure(interrupt, priority, cpu.affinity),
        }
    }

    /// Lets the interrupt through. For a private one, on `cpu` (on a GICv2: the caller).
    pub fn enable(&mut self, id: IntId, cpu: CpuTarget) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.enable(id, true),
            Version::V3(gic) => gic.enable(id, cpu.affinity, true),
        }
    }

    /// Stops the interrupt. One that a CPU has already been told of may still arrive once.
    pub fn disable(&mut self, id: IntId, cpu: CpuTarget) -> Result<(), GicError> {
        match &mut self.0 {
            Version::V2(gic) => gic.enable(id, false),
            Version::V3(gic) => gic.enable(id, cpu.affinity, false),
        }
    }
}

/// An acknowledged interrupt, to be ended once it has been handled.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an interrupt that is not ended blocks all others of its priority"]
pub struct Pending {
    id: IntId,
    /// What the acknowledge register said; a GICv2 wants all of it back.
    raw: u32,
}

impl Pending {
    /// Which interrupt it is.
    pub fn id(&self) -> IntId {
        self.id
    }
}

/// The part of the interrupt controller that each CPU has of its own.
pub struct CpuInterface(Interface);

enum Interface {
    V2(v2::Interface),
    V3,
}

impl CpuInterface {
    /// Takes the most urgent interrupt that waits for this CPU; `None` when there is none (a spurious interrupt needs
    /// nothing else). What the handler reads is read after this.
    pub fn acknowledge(&self) -> Option<Pending> {
        let pending = match &self.0 {
            Interface::V2(interface) => interface.acknowledge(),
            Interface::V3 => v3::acknowledge(),
        };
        // The acknowledgement takes effect before the handler's accesses (IHI 0069, 4.1).
        arch::barrier::dsb_sy();
        pending
    }

    /// Ends a handled interrupt; the device has seen all that the handler wrote.
    pub fn end(&self, pending: Pending) {
        // A level must have fallen before the GIC looks at it again.
        arch::barrier::dsb_sy();
        match &self.0 {
            Interface::V2(interface) => interface.end(pending.raw),
            Interface::V3 => v3::end(pending.id),
        }
        arch::barrier::isb();
    }

    /// Sends software-generated interrupt `number`. Panics when it is 16 or more. Memory written before is seen by
    /// the handlers.
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

/// The interrupt that an acknowledge register named, unless it is a special number.
fn real(raw: u32) -> Option<Pending> {
    let id = IntId::try_from(raw & 0xff_ffff).ok()?;
    let special = (IntId::SPECIAL_SECURE..=IntId::SPECIAL_NONE).contains(&id);
    (!special).then_some(Pending { id, raw })
}
