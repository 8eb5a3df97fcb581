//! The command queue behind its lock, and the acknowledgement of global errors.

use super::events::{self, DrainTime};
use super::fault_log::FaultLog;
use crate::sync::SpinLock;
use core::fmt;
use core::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use drivers::iommu::Shared;
use drivers::smmu::CommandQueue;

/// The command queue. Its lock is held while commands are written and registers are read, never while the
/// SMMU works.
pub struct Commands {
    queue: SpinLock<CommandQueue>,
    /// Set by an interrupt handler that found the queue locked.
    service_requested: AtomicBool,
    /// Set after events were lost, until the stream that filled the queue is reported.
    events_lost: AtomicBool,
    /// Set when the SMMU entered service failure mode, until it is reported.
    failed: AtomicBool,
    /// Locked last.
    log: SpinLock<FaultLog>,
}

impl Commands {
    pub(super) fn new(queue: CommandQueue) -> Self {
        Self {
            queue: SpinLock::new(queue),
            service_requested: AtomicBool::new(false),
            events_lost: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            log: SpinLock::new(FaultLog::new()),
        }
    }

    /// Acknowledges and logs global errors. If the queue is locked, the holder of the lock does it.
    pub(super) fn service(&self) {
        self.log.lock().report_suppressed();
        self.service_requested.store(true, SeqCst);
        let Some(mut queue) = self.queue.try_lock() else { return };
        self.service_requested.store(false, Relaxed);
        let (lost, errors) = queue.service_errors().lost_events();
        drop(queue);
        if lost {
            self.record_lost_events();
        }
        if errors.service_failure {
            self.failed.store(true, Relaxed);
            // Not reported from here: `Commands::with` is called with locks of the sinks' callers held.
            events::request_drain(DrainTime::Now);
        }
        if !errors.is_empty() {
            self.log(&errors);
        }
    }

    /// Records that the event queue overflowed.
    pub(super) fn record_lost_events(&self) {
        self.events_lost.store(true, Relaxed);
        self.log.lock().events_lost();
        // The next drain of the queue handles both.
        events::request_drain(DrainTime::AfterWindow);
    }

    /// Returns whether events were lost since the last call.
    pub(super) fn take_lost_events(&self) -> bool {
        self.events_lost.swap(false, Relaxed)
    }

    /// Returns whether the SMMU entered service failure mode since the last call.
    pub(super) fn take_failure(&self) -> bool {
        self.failed.swap(false, Relaxed)
    }

    fn log(&self, error: &dyn fmt::Display) {
        if !self.log.lock().error(error) {
            events::request_drain(DrainTime::AfterWindow);
        }
    }
}

impl Shared<CommandQueue> for Commands {
    #[inline]
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let result = action(&mut self.queue.lock());
        // Not Relaxed: either this load sees the interrupt's store, or the interrupt's `try_lock` sees the
        // unlocking. A Load-Acquire is not observed before an earlier Store-Release, here the unlocking (DDI
        // 0487, B2.3.10).
        if self.service_requested.load(SeqCst) {
            self.service();
        }
        result
    }
}
