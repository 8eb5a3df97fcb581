//! The stream that overflows an event queue.

use addr::StreamId;
use core::mem;

/// The stream of most records in an event queue, sampled whenever half a queue of records was read: the
/// handler reads less at a time, and a burst may be split over several reads.
#[derive(Debug)]
pub(super) struct OverflowCause {
    entries: u64,
    /// The records since the queue was last empty, a whole queue of them at most.
    current: DominantStream,
    /// The last sample.
    sample: DominantStream,
}

/// The stream of more than half of a sequence of events: the Boyer-Moore majority vote, in constant space.
/// Without a majority the result is any of the streams.
#[derive(Clone, Copy, Default, Debug)]
struct DominantStream {
    candidate: Option<StreamId>,
    lead: u64,
    events: u64,
}

impl OverflowCause {
    /// `entries` is the size of the queue.
    pub fn new(entries: u64) -> Self {
        Self { entries, current: DominantStream::default(), sample: DominantStream::default() }
    }

    /// Counts a record.
    pub fn add(&mut self, stream: StreamId) {
        self.current.add(stream);
    }

    /// Ends a batch of records, after which some are `left` in the queue. Returns whether
    /// [`take`](Self::take) now knows the stream that overflowed the queue. While most records of a full
    /// queue are unread it does not.
    pub fn end_batch(&mut self, left: bool) -> bool {
        let is_sample = 2 * self.current.events >= self.entries;
        if is_sample {
            self.sample = self.current;
        }
        if !left || self.current.events >= self.entries {
            self.current = DominantStream::default();
        }
        is_sample || !left
    }

    /// Returns the stream of the last sample, once: a later overflow has another cause.
    pub fn take(&mut self) -> Option<StreamId> {
        mem::take(&mut self.sample).candidate
    }
}

impl DominantStream {
    fn add(&mut self, stream: StreamId) {
        self.events += 1;
        match self.candidate {
            Some(candidate) if candidate == stream => self.lead += 1,
            Some(_) if self.lead > 0 => self.lead -= 1,
            _ => (self.candidate, self.lead) = (Some(stream), 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISY: StreamId = StreamId::new(7);

    fn dominant(streams: &[u32]) -> Option<StreamId> {
        let mut dominant = DominantStream::default();
        streams.iter().for_each(|&stream| dominant.add(StreamId::new(stream)));
        dominant.candidate
    }

    fn add(cause: &mut OverflowCause, stream: u32, events: u64) {
        (0..events).for_each(|_| cause.add(StreamId::new(stream)));
    }

    #[test]
    fn majority_is_found_in_any_order() {
        for streams in
            [&[7][..], &[1, 7, 7], &[7, 1, 7], &[7, 7, 1], &[1, 2, 3, 7, 7, 7, 7], &[7, 1, 7, 2, 7]]
        {
            assert_eq!(dominant(streams), Some(NOISY), "{streams:?}");
        }
        assert_eq!(dominant(&[]), None);
    }

    #[test]
    fn overflow_has_no_known_cause_until_half_of_the_queue_was_read() {
        let mut cause = OverflowCause::new(256);
        add(&mut cause, 1, 3);
        add(&mut cause, 7, 61);
        assert!(!cause.end_batch(true), "64 of 256 records");
        add(&mut cause, 7, 64);
        assert!(cause.end_batch(true));
        assert_eq!(cause.take(), Some(NOISY));
    }

    #[test]
    fn cause_is_known_when_the_queue_is_empty() {
        let mut cause = OverflowCause::new(256);
        add(&mut cause, 7, 9);
        assert!(cause.end_batch(false));
        assert_eq!(cause.take(), None, "the queue was never half full");
    }

    #[test]
    fn cause_of_an_overflow_is_not_that_of_a_later_one() {
        let mut cause = OverflowCause::new(8);
        add(&mut cause, 7, 8);
        assert!(cause.end_batch(false));
        assert_eq!(cause.take(), Some(NOISY));
        add(&mut cause, 1, 2);
        assert!(cause.end_batch(false));
        assert_eq!(cause.take(), None);
    }

    #[test]
    fn burst_may_be_over_before_its_overflow_is_reported() {
        let mut cause = OverflowCause::new(8);
        add(&mut cause, 7, 8);
        assert!(cause.end_batch(false));
        add(&mut cause, 1, 1);
        assert!(cause.end_batch(false));
        assert_eq!(cause.take(), Some(NOISY));
    }

    #[test]
    fn cause_is_sampled_anew_after_a_queue_of_records_without_pause() {
        let mut cause = OverflowCause::new(8);
        add(&mut cause, 1, 8);
        assert!(cause.end_batch(true));
        add(&mut cause, 7, 2);
        assert!(!cause.end_batch(true), "the records before are of another overflow");
        add(&mut cause, 7, 2);
        assert!(cause.end_batch(true));
        assert_eq!(cause.take(), Some(NOISY));
    }
}
