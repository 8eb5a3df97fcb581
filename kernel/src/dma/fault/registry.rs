//! The devices whose faults are counted, and the sink that counts them.

use super::OVERFLOW_QUARANTINE_NS;
use super::drain_request::DRAIN_REQUEST;
use super::state::FaultState;
use crate::iommu::{DrainTime, EventSink, Smmu};
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use addr::StreamId;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use smmu_spec::EventRecord;

/// A device that the quarantine thread can detach.
pub trait Quarantine: Any + Send + Sync {
    /// Detaches the device if its quarantine is pending. May sleep.
    fn quarantine(&self);
}

/// An attached stream with its fault state and device.
struct MonitoredStream {
    smmu: &'static Smmu,
    stream: StreamId,
    faults: Arc<FaultState>,
    device: Weak<dyn Quarantine>,
}

/// Binary search by SMMU and stream, of which there may be thousands: the index, or as an error that of an
/// insertion.
fn find(list: &[MonitoredStream], smmu: &Smmu, stream: StreamId) -> Result<usize, usize> {
    let key = (core::ptr::from_ref(smmu).addr(), stream);
    list.binary_search_by_key(&key, |entry| (core::ptr::from_ref(entry.smmu).addr(), entry.stream))
}

/// The attached streams, sorted by SMMU and stream. Locked in interrupt context too.
static STREAMS: SpinLock<Vec<MonitoredStream>> = SpinLock::new(Vec::new());
/// The wait queue of the quarantine thread.
pub(super) static QUARANTINE_WAIT: WaitQueue = WaitQueue::new();

/// Registers a stream: its faults are counted from then on.
pub fn register(
    smmu: &'static Smmu,
    stream: StreamId,
    faults: Arc<FaultState>,
    device: Weak<dyn Quarantine>,
) {
    let mut streams = STREAMS.lock();
    let at = find(&streams, smmu, stream).unwrap_or_else(|at| at);
    streams.insert(at, MonitoredStream { smmu, stream, faults, device });
}

/// Unregisters a stream.
pub fn unregister(smmu: &Smmu, stream: StreamId) {
    let mut streams = STREAMS.lock();
    if let Ok(at) = find(&streams, smmu, stream) {
        streams.remove(at);
    }
}

/// Returns the devices of the attached streams.
pub fn devices() -> Vec<Arc<dyn Quarantine>> {
    STREAMS.lock().iter().filter_map(|entry| entry.device.upgrade()).collect()
}

/// Returns a device whose quarantine is pending.
pub(super) fn next_pending() -> Option<Arc<dyn Quarantine>> {
    let streams = STREAMS.lock();
    streams.iter().filter(|entry| entry.faults.is_pending()).find_map(|entry| entry.device.upgrade())
}

/// The sink of all SMMUs' events.
pub(super) struct FaultSink;

impl EventSink for FaultSink {
    fn event(&self, smmu: &Smmu, event: &EventRecord) {
        let is_pending = {
            let streams = STREAMS.lock();
            find(&streams, smmu, event.stream).is_ok_and(|at| streams[at].faults.add(*event))
        };
        if is_pending {
            QUARANTINE_WAIT.wake_all();
        }
    }

    fn drain_requested(&self, time: DrainTime) {
        if DRAIN_REQUEST.add(time) {
            QUARANTINE_WAIT.wake_all();
        }
    }

    /// Requests the quarantine of all devices of the SMMU. Their rearm fails, since its commands do.
    fn smmu_failed(&self, smmu: &Smmu) {
        let now = sched::time::now();
        let streams = STREAMS.lock();
        for entry in streams.iter().filter(|entry| core::ptr::eq(entry.smmu, smmu)) {
            entry.faults.quarantine_until(now);
        }
        drop(streams);
        QUARANTINE_WAIT.wake_all();
    }

    fn queue_overflowed(&self, smmu: &Smmu, stream: StreamId) {
        let is_pending = {
            let streams = STREAMS.lock();
            let until = sched::time::now() + OVERFLOW_QUARANTINE_NS;
            find(&streams, smmu, stream).is_ok_and(|at| streams[at].faults.quarantine_until(until))
        };
        if is_pending {
            QUARANTINE_WAIT.wake_all();
        }
    }
}
