//! Translation faults of devices, in one direction: the event queue of an SMMU calls the registered sink, the sink counts the
//! fault of the device, and a thread quarantines a device at its limit: the SMMU aborts its transactions, without
//! further events, until its driver re-arms it ([`Device::rearm`](super::Device::rearm)).
//!
//! A device whose events overflow the event queue is quarantined at once, and for [`OVERFLOW_QUARANTINE_NS`]: it would hide the events of
//! other devices.
//!
//! The sink runs in interrupt context and must not wait for the SMMU, so the thread does. The same thread drains the event
//! queues once more after suppressed log lines, so that their number is printed even without another event.

mod registry;
mod state;
mod thread;

pub use registry::Quarantine;
pub(super) use registry::{register, unregister};
pub use state::{DEFAULT_LIMIT, FaultState};
pub use thread::start;

/// The least duration of a quarantine for an overflow of the event queue, in nanoseconds.
pub const OVERFLOW_QUARANTINE_NS: u64 = 1_000_000_000;
