//! Faults injected into the command queue (feature `fault-injection`): failed batches, illegal commands, and
//! a queue that the SMMU cannot read. In the product all hooks are empty inline functions.

#[cfg(not(feature = "fault-injection"))]
mod disabled;
#[cfg(feature = "fault-injection")]
mod enabled;

#[cfg(not(feature = "fault-injection"))]
pub(super) use disabled::Injected;
#[cfg(feature = "fault-injection")]
pub use enabled::*;
