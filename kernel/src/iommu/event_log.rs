//! The log lines of an event queue: queued by the interrupt handler, printed by a thread. A UART takes
//! milliseconds for a line.

use alloc::collections::VecDeque;
use core::fmt;
use drivers::smmu::SuppressedEvents;
use smmu_spec::EventRecord;

/// The maximum number of queued lines: more than the rate limit admits in a second, and their counts.
const CAPACITY: usize = 256;

/// A line of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EventLine {
    Event(EventRecord),
    Suppressed(SuppressedEvents),
}

impl EventLine {
    fn events(&self) -> u64 {
        match self {
            Self::Event(_) => 1,
            Self::Suppressed(suppressed) => suppressed.count,
        }
    }
}

impl fmt::Display for EventLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => event.fmt(f),
            Self::Suppressed(SuppressedEvents { stream: Some(stream), count }) => {
                write!(f, "smmu: sid={stream} {count} more events")
            }
            Self::Suppressed(SuppressedEvents { stream: None, count }) => {
                write!(f, "smmu: {count} more events of many streams")
            }
        }
    }
}

/// The queued lines, oldest first.
pub(super) struct EventLog {
    lines: VecDeque<EventLine>,
    /// The events whose lines found the queue full.
    dropped: u64,
}

impl EventLog {
    pub fn new() -> Self {
        Self { lines: VecDeque::with_capacity(CAPACITY), dropped: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Queues a line, or counts its events if the queue is full. Does not allocate.
    pub fn push(&mut self, line: EventLine) {
        if self.lines.len() < CAPACITY {
            self.lines.push_back(line);
        } else {
            self.dropped += line.events();
        }
    }

    /// Removes and returns the oldest line; after the last one, the count of the dropped events.
    pub fn pop(&mut self) -> Option<EventLine> {
        let dropped = || match core::mem::take(&mut self.dropped) {
            0 => None,
            count => Some(EventLine::Suppressed(SuppressedEvents { stream: None, count })),
        };
        self.lines.pop_front().or_else(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::StreamId;

    #[test]
    fn full_log_counts_the_events_of_further_lines() {
        let mut log = EventLog::new();
        let suppressed =
            |count| EventLine::Suppressed(SuppressedEvents { stream: Some(StreamId::new(8)), count });
        (0..CAPACITY as u64 + 2).for_each(|count| log.push(suppressed(count)));
        let printed: alloc::vec::Vec<_> = core::iter::from_fn(|| log.pop()).collect();
        assert_eq!(printed.len(), CAPACITY + 1);
        assert_eq!(printed[0], suppressed(0));
        let all: u64 = printed.iter().map(EventLine::events).sum();
        assert_eq!(all, (0..CAPACITY as u64 + 2).sum());
        assert_eq!(printed[CAPACITY].to_string(), "smmu: 513 more events of many streams");
    }
}
