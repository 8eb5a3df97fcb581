//! The thread that quarantines devices.

use super::drain_request::DRAIN_REQUEST;
use super::registry::{self, FaultSink, QUARANTINE_WAIT, Quarantine};
use crate::iommu::{self, DrainTime};
use crate::sched::{self, WaitError};
use alloc::sync::Arc;

/// The delay of a requested drain, longer than the window of the rate limit
/// ([`drivers::rate_limiter::WINDOW_US`]).
const DRAIN_DELAY_NS: u64 = (drivers::rate_limiter::WINDOW_US + 100_000) * 1000;

/// Registers the event sink, and starts the thread.
///
/// # Errors
/// Out of memory for the thread.
pub fn start() -> Result<(), sched::OutOfMemory> {
    iommu::register_sink(&FaultSink);
    // Prints the events since the SMMUs were enabled.
    DRAIN_REQUEST.add(DrainTime::Now);
    sched::spawn("quarantine", || {
        loop {
            match wait() {
                Some(device) => device.quarantine(),
                None => drain(),
            }
        }
    })
    .map(|_| ())
}

/// Waits for a pending quarantine and returns its device, or `None` at the end of the delay of a requested
/// drain.
fn wait() -> Option<Arc<dyn Quarantine>> {
    loop {
        let request = DRAIN_REQUEST.get();
        let delay = match request {
            None => None,
            Some(DrainTime::AfterWindow) => Some(DRAIN_DELAY_NS),
            Some(DrainTime::Now) => Some(0),
        };
        let until = delay.map(|delay| sched::time::now() + delay);
        let changed = || {
            let is_changed = || DRAIN_REQUEST.get() != request;
            registry::next_pending().map(Some).or_else(|| is_changed().then_some(None))
        };
        match QUARANTINE_WAIT.wait_until(until, changed) {
            Ok(Some(device)) => return Some(device),
            Err(WaitError::TimedOut) => return None,
            Ok(None) | Err(WaitError::Interrupted) => {}
        }
    }
}

/// Drains all event queues, which prints the number of suppressed lines, and requests the next drain if a
/// queue is filled faster than it is drained.
fn drain() {
    DRAIN_REQUEST.serve(|| iommu::all().iter().for_each(|smmu| smmu.service()));
}
