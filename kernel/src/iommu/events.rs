//! The event queue: drained by the interrupt handler; events are printed and forwarded to the registered
//! sinks.

use super::dominant_stream::DominantStream;
use super::smmu::Smmu;
use crate::{debug, kprintln};
use addr::StreamId;
use alloc::vec::Vec;
use drivers::smmu::{EventQueue, EventReport, SuppressedEvents};
use smmu_spec::EventRecord;
use spin::RwLock;

/// The time of a requested drain of the event queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainTime {
    /// After the window of the rate limit: log lines were suppressed or events lost, whose number is printed
    /// then.
    AfterWindow,
    /// At once, in a thread: records are left in a queue, which raises no interrupt before it was empty.
    Now,
}

/// A receiver of recorded events. Its methods are called in interrupt context, and neither allocate nor wait.
pub trait EventSink: Sync {
    /// Called for each event that `smmu` recorded.
    fn event(&self, smmu: &Smmu, event: &EventRecord);
    /// [`Smmu::service`] must be called at this time, even without another interrupt.
    fn drain_requested(&self, _time: DrainTime) {}
    /// The queue overflowed while most events in it were those of `stream`.
    fn queue_overflowed(&self, _smmu: &Smmu, _stream: StreamId) {}
}

/// Read by interrupt handlers; written with interrupts masked, and only to add.
static SINKS: RwLock<Vec<&'static dyn EventSink>> = RwLock::new(Vec::new());

/// Adds a receiver of the events of all SMMUs.
pub fn register_sink(sink: &'static dyn EventSink) {
    let _irqs = arch::cpu::mask_irqs();
    SINKS.write().push(sink);
}

/// Requests a call of [`Smmu::service`].
pub(super) fn request_drain(time: DrainTime) {
    SINKS.read().iter().for_each(|sink| sink.drain_requested(time));
}

/// Reports to the sinks that `stream` overflowed the queue.
pub(super) fn report_overflow(smmu: &Smmu, stream: StreamId) {
    SINKS.read().iter().for_each(|sink| sink.queue_overflowed(smmu, stream));
}

/// The event queue of an SMMU and its dominant stream.
pub(super) struct EventDispatcher {
    queue: EventQueue,
    /// The dominant stream when the queue was last found at least half full.
    dominant: DominantStream,
}

impl EventDispatcher {
    pub(super) fn new(queue: EventQueue) -> Self {
        Self { queue, dominant: DominantStream::default() }
    }

    /// Prints the recorded events and forwards them to the sinks. Returns the dominant stream of the last
    /// drain that found the queue at least half full; a burst may be split over two drains.
    pub(super) fn drain(&mut self, smmu: &Smmu) -> DominantStream {
        let Self { queue, dominant } = self;
        let mut now = DominantStream::default();
        let left = repeat_while_left(|| {
            queue.drain(|report| match report {
                EventReport::Event(event) => {
                    kprintln!("{event}");
                    debug::translation_fault(smmu.stream_key(event.stream), &event);
                    now.add(event.stream);
                    forward(smmu, &event);
                }
                EventReport::RateLimited(event) => {
                    request_drain(DrainTime::AfterWindow);
                    now.add(event.stream);
                    forward(smmu, &event);
                }
                EventReport::Suppressed(SuppressedEvents { stream: Some(stream), count }) => {
                    kprintln!("smmu: sid={stream} {count} more events");
                }
                EventReport::Suppressed(SuppressedEvents { stream: None, count }) => {
                    kprintln!("smmu: {count} more events of many streams");
                }
                EventReport::Overflow => smmu.command_queue().record_lost_events(),
            })
        });
        if left {
            request_drain(DrainTime::Now);
        }
        if 2 * now.events() >= smmu.features().event_queue_entries() {
            *dominant = now;
        }
        *dominant
    }
}

/// The number of drains in one interrupt, each of at most a full queue.
const MAX_DRAINS: usize = 2;

/// Calls `drain` until it leaves no records, at most [`MAX_DRAINS`] times. Returns whether records are left.
fn repeat_while_left(mut drain: impl FnMut() -> bool) -> bool {
    (0..MAX_DRAINS).all(|_| drain())
}

fn forward(smmu: &Smmu, event: &EventRecord) {
    SINKS.read().iter().for_each(|sink| sink.event(smmu, event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_is_repeated_within_a_limit_and_reports_records_that_are_left() {
        for (arrivals, drains, left) in [(0, 1, false), (1, 2, false), (2, 2, true), (9, 2, true)] {
            let mut done = 0;
            let result = repeat_while_left(|| {
                done += 1;
                done <= arrivals
            });
            assert_eq!((done, result), (drains, left), "records arrive during {arrivals} drains");
        }
    }
}
