//! The stream that fills an event queue.

use addr::StreamId;

/// The stream of more than half of a sequence of events: the Boyer-Moore majority vote, in constant space.
/// Without a majority the result is any of the streams.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct DominantStream {
    candidate: Option<StreamId>,
    lead: u64,
    events: u64,
}

impl DominantStream {
    /// Counts an event.
    pub fn add(&mut self, stream: StreamId) {
        self.events += 1;
        match self.candidate {
            Some(candidate) if candidate == stream => self.lead += 1,
            Some(_) if self.lead > 0 => self.lead -= 1,
            _ => (self.candidate, self.lead) = (Some(stream), 1),
        }
    }

    /// The number of events.
    pub fn events(self) -> u64 {
        self.events
    }

    /// The candidate; `None` without events.
    pub fn stream(self) -> Option<StreamId> {
        self.candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dominant(streams: &[u32]) -> Option<StreamId> {
        let mut dominant = DominantStream::default();
        streams.iter().for_each(|&stream| dominant.add(StreamId::new(stream)));
        dominant.stream()
    }

    #[test]
    fn majority_is_found_in_any_order() {
        for streams in
            [&[7][..], &[1, 7, 7], &[7, 1, 7], &[7, 7, 1], &[1, 2, 3, 7, 7, 7, 7], &[7, 1, 7, 2, 7]]
        {
            assert_eq!(dominant(streams), Some(StreamId::new(7)), "{streams:?}");
        }
        assert_eq!(dominant(&[]), None);
    }

    #[test]
    fn events_of_all_streams_are_counted() {
        let mut dominant = DominantStream::default();
        [1, 2, 2, 3].into_iter().for_each(|stream| dominant.add(StreamId::new(stream)));
        assert_eq!(dominant.events(), 4);
    }
}
