//! The event queue: drained by the interrupt handler; events are queued for the log and forwarded to the
//! registered sinks.

use super::event_log::{EventLine, EventLog};
use super::overflow_cause::OverflowCause;
use super::smmu::Smmu;
use crate::debug;
use addr::StreamId;
use alloc::vec::Vec;
use drivers::smmu::{EventQueue, EventReport};
use smmu_spec::EventRecord;
use spin::RwLock;

/// The time of a requested drain of the event queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainTime {
    /// After the window of the rate limit: log lines were suppressed or events lost, whose number is printed
    /// then.
    AfterWindow,
    /// At once, in a thread: log lines are queued, or records are left in a queue, which raises no interrupt
    /// before it was empty.
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
    /// The SMMU has failed permanently: it aborts all transactions, and all commands fail.
    fn smmu_failed(&self, _smmu: &Smmu) {}
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
fn report_overflow(smmu: &Smmu, stream: StreamId) {
    SINKS.read().iter().for_each(|sink| sink.queue_overflowed(smmu, stream));
}

/// Reports to the sinks that `smmu` has failed permanently.
pub(super) fn report_failure(smmu: &Smmu) {
    SINKS.read().iter().for_each(|sink| sink.smmu_failed(smmu));
}

/// The event queue of an SMMU.
pub(super) struct EventDispatcher {
    queue: EventQueue,
    overflow_cause: OverflowCause,
    log: EventLog,
}

impl EventDispatcher {
    /// `entries` is the size of `queue`.
    pub(super) fn new(queue: EventQueue, entries: u64) -> Self {
        Self { queue, overflow_cause: OverflowCause::new(entries), log: EventLog::new() }
    }

    /// Queues a batch of the recorded events for the log and forwards them to the sinks, and after an
    /// overflow the stream that caused it. Returns whether events are left in the queue.
    pub(super) fn drain(&mut self, smmu: &Smmu) -> bool {
        let Self { queue, overflow_cause, log } = self;
        let left = queue.drain(|report| match report {
            EventReport::Event(event) => {
                log.push(EventLine::Event(event));
                debug::translation_fault(smmu.stream_key(event.stream), &event);
                overflow_cause.add(event.stream);
                forward(smmu, &event);
            }
            EventReport::RateLimited(event) => {
                request_drain(DrainTime::AfterWindow);
                overflow_cause.add(event.stream);
                forward(smmu, &event);
            }
            EventReport::Suppressed(suppressed) => log.push(EventLine::Suppressed(suppressed)),
            EventReport::Overflow => smmu.command_queue().record_lost_events(),
        });
        if overflow_cause.end_batch(left)
            && smmu.command_queue().take_lost_events()
            && let Some(stream) = overflow_cause.take()
        {
            report_overflow(smmu, stream);
        }
        if left || !log.is_empty() {
            request_drain(DrainTime::Now);
        }
        left
    }

    /// Removes and returns the oldest line of the log.
    pub(super) fn next_line(&mut self) -> Option<EventLine> {
        self.log.pop()
    }
}

/// Calls `drain` until it leaves no records, at most `limit` times.
pub(super) fn repeat_while_left(limit: u64, mut drain: impl FnMut() -> bool) {
    let _ = (0..limit).all(|_| drain());
}

fn forward(smmu: &Smmu, event: &EventRecord) {
    SINKS.read().iter().for_each(|sink| sink.event(smmu, event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_is_repeated_within_a_limit() {
        for (arrivals, drains) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
            let mut done = 0;
            repeat_while_left(3, || {
                done += 1;
                done <= arrivals
            });
            assert_eq!(done, drains, "records arrive during {arrivals} drains");
        }
    }
}
