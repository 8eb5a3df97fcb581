//! Whose events fill a queue.

use addr::StreamId;

/// The stream of more than half of some events, if one has as many: the majority vote of Boyer and Moore, in a few words
/// for any number of streams. Where no stream has as many it is one of them all the same, or none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Loudest {
    candidate: Option<StreamId>,
    lead: u64,
    events: u64,
}

impl Loudest {
    /// Counts an event.
    pub fn add(&mut self, stream: StreamId) {
        self.events += 1;
        match self.candidate {
            Some(candidate) if candidate == stream => self.lead += 1,
            Some(_) if self.lead > 0 => self.lead -= 1,
            _ => (self.candidate, self.lead) = (Some(stream), 1),
        }
    }

    /// How many there were.
    pub fn events(self) -> u64 {
        self.events
    }

    /// Whose they are; `None` if there were no events.
    pub fn stream(self) -> Option<StreamId> {
        self.candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loudest(streams: &[u32]) -> Option<StreamId> {
        let mut loudest = Loudest::default();
        streams.iter().for_each(|&stream| loudest.add(StreamId::new(stream)));
        loudest.stream()
    }

    #[test]
    fn who_has_more_than_half_is_found_in_any_order() {
        for streams in
            [&[7][..], &[1, 7, 7], &[7, 1, 7], &[7, 7, 1], &[1, 2, 3, 7, 7, 7, 7], &[7, 1, 7, 2, 7]]
        {
            assert_eq!(loudest(streams), Some(StreamId::new(7)), "{streams:?}");
        }
        assert_eq!(loudest(&[]), None);
    }

    #[test]
    fn all_events_count() {
        let mut loudest = Loudest::default();
        [1, 2, 2, 3].into_iter().for_each(|stream| loudest.add(StreamId::new(stream)));
        assert_eq!(loudest.events(), 4);
    }
}
