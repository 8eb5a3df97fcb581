//! The request of interrupt handlers to drain the event queues again.

use crate::iommu::DrainTime;
use crate::sync::atomic::{AtomicU8, Ordering};

/// At most one request; the earlier time prevails.
pub(super) struct DrainRequest(AtomicU8);

/// Log lines were suppressed whose number may not have been printed, or records are left in a queue.
#[cfg(not(feature = "loom"))]
pub(super) static DRAIN_REQUEST: DrainRequest = DrainRequest(AtomicU8::new(NONE));

// loom's atomics have no `const` constructor.
#[cfg(feature = "loom")]
::loom::lazy_static! {
    pub(super) static ref DRAIN_REQUEST: DrainRequest = DrainRequest(AtomicU8::new(NONE));
}

const NONE: u8 = 0;
const AFTER_WINDOW: u8 = 1;
const NOW: u8 = 2;

impl DrainRequest {
    /// Adds a request. Returns whether the thread must be woken: there was none, or a later one.
    pub fn add(&self, time: DrainTime) -> bool {
        let request = match time {
            DrainTime::AfterWindow => AFTER_WINDOW,
            DrainTime::Now => NOW,
        };
        // Released: the record that the handler left in the queue precedes the request.
        self.0.fetch_max(request, Ordering::Release) < request
    }

    pub fn get(&self) -> Option<DrainTime> {
        match self.0.load(Ordering::Acquire) {
            NONE => None,
            AFTER_WINDOW => Some(DrainTime::AfterWindow),
            _ => Some(DrainTime::Now),
        }
    }

    /// Removes the request, and calls `drain`, which locks each queue as the handlers do.
    pub fn serve(&self, drain: impl FnOnce()) {
        // First, so that a request during the drain is not lost. A request that this overwrites was made with
        // a queue locked, or after the release of its lock, so `drain` finds the queue as the handler left
        // it.
        self.0.store(NONE, Ordering::Relaxed);
        drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_drain_time_prevails_and_wakes_the_thread() {
        let request = DrainRequest(AtomicU8::new(NONE));
        assert_eq!(request.get(), None);
        assert!(request.add(DrainTime::AfterWindow) && !request.add(DrainTime::AfterWindow));
        assert_eq!(request.get(), Some(DrainTime::AfterWindow));
        assert!(request.add(DrainTime::Now) && !request.add(DrainTime::AfterWindow));
        assert_eq!(request.get(), Some(DrainTime::Now));
        request.serve(|| assert_eq!(request.get(), None));
        request.serve(|| assert!(request.add(DrainTime::AfterWindow)));
        assert_eq!(request.get(), Some(DrainTime::AfterWindow), "a request during a drain is kept");
    }
}

/// Interrupt handlers and the thread in every interleaving (`cargo xtask loom`).
#[cfg(all(test, feature = "loom"))]
mod loom {
    use super::*;
    use ::loom::sync::{Arc, Mutex};
    use ::loom::thread;

    /// An event queue with the number of records that a handler left, and the request.
    struct DrainedQueue {
        records: Mutex<u32>,
        request: DrainRequest,
    }

    impl DrainedQueue {
        /// An interrupt handler that does not empty the queue.
        fn leave_record(&self) {
            let mut records = self.records.lock().unwrap();
            *records += 1;
            self.request.add(DrainTime::Now);
        }
    }

    fn shared() -> Arc<DrainedQueue> {
        Arc::new(DrainedQueue { records: Mutex::new(0), request: DrainRequest(AtomicU8::new(NONE)) })
    }

    #[test]
    fn loom_record_left_in_a_queue_is_drained_or_requested() {
        ::loom::model(|| {
            let shared = shared();
            shared.leave_record();
            let handler = shared.clone();
            let handler = thread::spawn(move || handler.leave_record());
            for _ in 0..2 {
                if shared.request.get().is_some() {
                    shared.request.serve(|| *shared.records.lock().unwrap() = 0);
                }
            }
            handler.join().unwrap();
            let left = *shared.records.lock().unwrap();
            assert!(left == 0 || shared.request.get().is_some(), "{left} records and no request");
        });
    }

    #[test]
    fn loom_earlier_drain_time_prevails() {
        ::loom::model(|| {
            let shared = shared();
            let other = shared.clone();
            let other = thread::spawn(move || other.request.add(DrainTime::AfterWindow));
            assert!(shared.request.add(DrainTime::Now), "the thread is not woken");
            other.join().unwrap();
            assert_eq!(shared.request.get(), Some(DrainTime::Now));
        });
    }
}
