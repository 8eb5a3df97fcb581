//! The interrupt controller: a GICv2 or GICv3 behind one type.

pub use arm_gic::{IntId, Trigger};

/// An interrupt and how its line signals it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Its number at the GIC.
    pub id: IntId,
    /// By an edge (a pulse, latched by the GIC) or by a level (held until the device is served).
    pub trigger: Trigger,
}
