//! The devices whose faults are counted, and the sink that counts them.

use super::HOLD_NS;
use super::state::FaultState;
use crate::iommu::{EventSink, Smmu};
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use addr::StreamId;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use smmu_spec::EventRecord;

/// A device that the quarantine thread can detach.
pub trait Quarantine: Send + Sync {
    /// Detaches the device if its quarantine is pending. May sleep.
    fn quarantine(&self);
}

/// A device behind an SMMU, by its stream.
struct Watched {
    smmu: &'static Smmu,
    stream: StreamId,
    faults: Arc<FaultState>,
    device: Weak<dyn Quarantine>,
}

/// Returns the index of the stream in the sorted list, or that of its insertion: there may be thousands.
fn find(list: &[Watched], smmu: &Smmu, stream: StreamId) -> Result<usize, usize> {
    let key = (core::ptr::from_ref(smmu).addr(), stream);
    list.binary_search_by_key(&key, |watched| (core::ptr::from_ref(watched.smmu).addr(), watched.stream))
}

/// Sorted by SMMU and stream. Locked in interrupt context too.
static WATCHED: SpinLock<Vec<Watched>> = SpinLock::new(Vec::new());
/// The quarantine thread.
pub(super) static WAITING: WaitQueue = WaitQueue::new();
/// Log lines were suppressed, and their number may not have been printed.
static DRAIN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts to count the faults of a device.
pub fn watch(smmu: &'static Smmu, stream: StreamId, faults: Arc<FaultState>, device: Weak<dyn Quarantine>) {
    let mut watched = WATCHED.lock();
    let at = find(&watched, smmu, stream).unwrap_or_else(|at| at);
    watched.insert(at, Watched { smmu, stream, faults, device });
}

/// Stops to count the faults of a stream.
pub fn forget(smmu: &Smmu, stream: StreamId) {
    let mut watched = WATCHED.lock();
    if let Ok(at) = find(&watched, smmu, stream) {
        watched.remove(at);
    }
}

/// Returns a device whose quarantine is pending.
pub(super) fn next_pending() -> Option<Arc<dyn Quarantine>> {
    let watched = WATCHED.lock();
    watched.iter().filter(|watched| watched.faults.is_pending()).find_map(|watched| watched.device.upgrade())
}

/// Returns whether the event queues must be drained once more.
pub(super) fn is_drain_requested() -> bool {
    DRAIN_REQUESTED.load(Relaxed)
}

pub(super) fn clear_drain_request() {
    DRAIN_REQUESTED.store(false, Relaxed);
}

/// The sink of all SMMUs' events.
pub(super) struct FaultSink;

impl EventSink for FaultSink {
    fn event(&self, smmu: &Smmu, event: &EventRecord) {
        let is_pending = {
            let watched = WATCHED.lock();
            find(&watched, smmu, event.stream).is_ok_and(|at| watched[at].faults.add(*event))
        };
        if is_pending {
            WAITING.wake_all();
        }
    }

    fn drain_requested(&self) {
        if !DRAIN_REQUESTED.swap(true, Relaxed) {
            WAITING.wake_all();
        }
    }

    fn queue_overflowed(&self, smmu: &Smmu, stream: StreamId) {
        let is_pending = {
            let watched = WATCHED.lock();
            let until = sched::time::now() + HOLD_NS;
            find(&watched, smmu, stream).is_ok_and(|at| watched[at].faults.hold(until))
        };
        if is_pending {
            WAITING.wake_all();
        }
    }
}
