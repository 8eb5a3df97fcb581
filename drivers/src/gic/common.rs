//! Items of both GIC versions: interrupts, targets, errors and acknowledge values.

use crate::mmio::TooShort;
use core::fmt;

pub use arm_gic::{IntId, Trigger};

/// Initial priority of every interrupt; lower numbers are more urgent. The upper half is available to a
/// non-secure kernel.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

/// An interrupt and its trigger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GicInterrupt {
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
    /// The distributor does not complete a register write (GICD_CTLR.RWP).
    WritePending,
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
            Self::WritePending => write!(f, "GICD_CTLR.RWP stays 1"),
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

/// A CPU as an interrupt target, created by [`Gic::init_cpu`](super::Gic::init_cpu) on that CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuTarget {
    /// The affinity fields of its MPIDR_EL1.
    pub(super) affinity: u64,
    /// Its bit in a GICv2's target masks; 0 on a GICv3.
    pub(super) mask: u8,
}

/// Destination of an SGI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiDestination {
    /// One CPU.
    One(CpuTarget),
    /// Every CPU except the sender.
    Others,
}

/// An acknowledged interrupt, to be ended after it was handled.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an interrupt that is not ended blocks all others of its priority"]
pub struct GicPending {
    pub(super) id: IntId,
    /// The value of the acknowledge register, which a GICv2 expects in EOIR.
    pub(super) raw: u32,
}

impl GicPending {
    /// Returns its number.
    pub fn id(&self) -> IntId {
        self.id
    }

    /// Returns the interrupt in a value of the acknowledge register, unless it is a special number.
    pub(super) fn from_raw(raw: u32) -> Option<Self> {
        let id = IntId::try_from(raw & 0xff_ffff).ok()?;
        let special = (IntId::SPECIAL_SECURE..=IntId::SPECIAL_NONE).contains(&id);
        (!special).then_some(Self { id, raw })
    }
}
