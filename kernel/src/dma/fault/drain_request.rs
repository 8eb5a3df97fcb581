//! The request of interrupt handlers to drain the event queues again.

use crate::iommu::DrainTime;
use core::sync::atomic::{AtomicU8, Ordering};

/// At most one request; the earlier time prevails.
pub(super) struct DrainRequest(AtomicU8);

const NONE: u8 = 0;
const AFTER_WINDOW: u8 = 1;
const NOW: u8 = 2;

impl DrainRequest {
    pub const fn new() -> Self {
        Self(AtomicU8::new(NONE))
    }

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

    /// Removes the request. Must precede the drain, so that a request during the drain is not lost.
    pub fn clear(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_drain_time_prevails_and_wakes_the_thread() {
        let request = DrainRequest::new();
        assert_eq!(request.get(), None);
        assert!(request.add(DrainTime::AfterWindow) && !request.add(DrainTime::AfterWindow));
        assert_eq!(request.get(), Some(DrainTime::AfterWindow));
        assert!(request.add(DrainTime::Now) && !request.add(DrainTime::AfterWindow));
        assert_eq!(request.get(), Some(DrainTime::Now));
        request.clear();
        assert_eq!(request.get(), None);
    }
}
