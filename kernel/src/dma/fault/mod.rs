//! Translation faults of devices: an SMMU's event queue handler calls the registered sink, the sink counts
//! the device's fault, and a thread quarantines the device at its limit: the SMMU aborts its transactions,
//! without further events, until its driver re-arms it ([`Device::rearm`](super::Device::rearm)).
//!
//! A device that overflows the event queue is quarantined immediately, for at least
//! [`OVERFLOW_QUARANTINE_NS`]: it would hide the events of other devices.
//!
//! The sink runs in interrupt context and must not wait for the SMMU, so the thread detaches the device. The
//! same thread drains the event queues once more after suppressed log lines, so that their number is printed
//! even without another event, and immediately if a handler left records in a queue: the interrupt is
//! edge-triggered, and a queue that does not become empty raises none (IHI 0070, 3.18.2).

mod drain_request;
mod registry;
mod state;
mod thread;

pub use registry::Quarantine;
pub(super) use registry::{devices, register, unregister};
pub use state::{DEFAULT_LIMIT, FaultState};
pub use thread::start;

/// The minimum duration of a quarantine after an overflow of the event queue, in nanoseconds.
pub const OVERFLOW_QUARANTINE_NS: u64 = 1_000_000_000;
