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

/// A receiver of recorded events. Its methods are called in interrupt context, and neither allocate nor wait.
pub trait EventSink: Sync {
    /// Called for each event that `smmu` recorded.
    fn event(&self, smmu: &Smmu, event: &EventRecord);
    /// Log lines were suppressed or events lost: [`Smmu::service`] must be called within seconds, even
    /// without another interrupt.
    fn drain_requested(&self) {}
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
pub(super) fn request_drain() {
    SINKS.read().iter().for_each(|sink| sink.drain_requested());
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
        // Bounded work: if a device faults faster than the queue is drained, its next interrupt continues.
        for _ in 0..2 {
            let more = queue.drain(|report| match report {
                EventReport::Event(event) => {
                    kprintln!("{event}");
                    debug::translation_fault(smmu.stream_key(event.stream), &event);
                    now.add(event.stream);
                    forward(smmu, &event);
                }
                EventReport::RateLimited(event) => {
                    request_drain();
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
            });
            if !more {
                break;
            }
        }
        if 2 * now.events() >= smmu.features().event_queue_entries() {
            *dominant = now;
        }
        *dominant
    }
}

fn forward(smmu: &Smmu, event: &EventRecord) {
    SINKS.read().iter().for_each(|sink| sink.event(smmu, event));
}
