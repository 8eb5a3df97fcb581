//! How many events of a stream are worth a line.
//!
//! One DMA that fails can leave a thousand records, and a device that keeps failing never stops. So each stream may have
//! [`BURST`] events reported in each [`WINDOW`]; the others are counted, and the count is reported once at the end of the
//! drain in which the first was left out, then when that window is over.

use addr::StreamId;

/// Events reported of a stream in each window.
pub const BURST: u32 = 8;
/// Length of a window in microseconds.
pub const WINDOW: u64 = 1_000_000;
/// Streams told apart. The one that was quiet for longest makes room for a new one.
const STREAMS: usize = 64;

/// Events of a stream that were left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The stream.
    pub stream: StreamId,
    /// How many since this was last said.
    pub count: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    stream: StreamId,
    window_start: u64,
    last_seen: u64,
    reported: u32,
    dropped: u64,
    announced: bool,
}

/// The streams that were seen lately.
pub(super) struct RateLimit {
    entries: [Option<Entry>; STREAMS],
}

impl RateLimit {
    pub const fn new() -> Self {
        Self { entries: [None; STREAMS] }
    }

    /// Whether this event of `stream` is worth a line; and what was left out before, when a new window begins or the
    /// stream's place goes to another.
    pub fn admit(&mut self, stream: StreamId, now: u64) -> (bool, Option<Dropped>) {
        let slot = self.slot(stream);
        let fresh =
            Entry { stream, window_start: now, last_seen: now, reported: 0, dropped: 0, announced: false };
        let mut entry = self.entries[slot].unwrap_or(fresh);
        let expired = entry.stream != stream || now.wrapping_sub(entry.window_start) > WINDOW;
        let before = expired.then(|| entry.take_dropped()).flatten();
        if expired {
            entry = fresh;
        }
        entry.last_seen = now;
        let worth = entry.reported < BURST;
        match worth {
            true => entry.reported += 1,
            false => entry.dropped += 1,
        }
        self.entries[slot] = Some(entry);
        (worth, before)
    }

    /// Calls `report` for each stream that had events left out and was not announced in its window, or whose window is
    /// over: it may never have another event.
    pub fn announce(&mut self, now: u64, mut report: impl FnMut(Dropped)) {
        let due = |entry: &&mut Entry| !entry.announced || now.wrapping_sub(entry.window_start) > WINDOW;
        for entry in self.entries.iter_mut().flatten().filter(due) {
            if let Some(dropped) = entry.take_dropped() {
                entry.announced = true;
                report(dropped);
            }
        }
    }

    /// The entry of `stream`, or a free one, or the one that was quiet for longest.
    fn slot(&self, stream: StreamId) -> usize {
        let known = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.stream == stream);
        let age = |slot: &usize| self.entries[*slot].map(|entry| entry.last_seen);
        self.entries.iter().position(known).or_else(|| (0..STREAMS).min_by_key(age)).unwrap_or(0)
    }
}

impl Entry {
    fn take_dropped(&mut self) -> Option<Dropped> {
        let count = core::mem::take(&mut self.dropped);
        (count > 0).then_some(Dropped { stream: self.stream, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn stream(number: u32) -> StreamId {
        StreamId::new(number)
    }

    #[test]
    fn a_burst_is_reported_and_the_rest_counted_once() {
        let mut limit = RateLimit::new();
        let reported = (0..1024).filter(|_| limit.admit(stream(8), 5).0).count();
        assert_eq!(reported, BURST as usize);
        let mut said = Vec::new();
        limit.announce(5, |dropped| said.push(dropped));
        assert_eq!(said, [Dropped { stream: stream(8), count: 1024 - u64::from(BURST) }]);
        limit.admit(stream(8), 6);
        limit.announce(6, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn a_stream_that_fell_silent_has_its_last_count_told_when_its_window_is_over() {
        let mut limit = RateLimit::new();
        (0..=BURST).for_each(|_| _ = limit.admit(stream(8), 0));
        limit.announce(0, |_| {});
        (0..5).for_each(|_| _ = limit.admit(stream(8), 1));
        limit.announce(WINDOW, |dropped| panic!("{dropped:?}"));
        let mut said = Vec::new();
        limit.announce(WINDOW + 1, |dropped| said.push(dropped));
        assert_eq!(said, [Dropped { stream: stream(8), count: 5 }]);
        limit.announce(3 * WINDOW, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn a_new_window_says_what_the_last_one_left_out() {
        let mut limit = RateLimit::new();
        for _ in 0..BURST + 3 {
            limit.admit(stream(1), 0);
        }
        let (worth, before) = limit.admit(stream(1), WINDOW + 1);
        assert_eq!((worth, before), (true, Some(Dropped { stream: stream(1), count: 3 })));
    }

    #[test]
    fn one_noisy_stream_does_not_silence_another() {
        let mut limit = RateLimit::new();
        for _ in 0..100 {
            limit.admit(stream(1), 0);
        }
        assert_eq!(limit.admit(stream(2), 0), (true, None));
    }

    #[test]
    fn more_streams_than_places_share_and_lose_no_count() {
        let mut limit = RateLimit::new();
        for _ in 0..BURST + 2 {
            limit.admit(stream(0), 1);
        }
        for other in 1..STREAMS as u32 {
            limit.admit(stream(other), 2);
        }
        let (worth, before) = limit.admit(stream(99), 3);
        assert_eq!((worth, before), (true, Some(Dropped { stream: stream(0), count: 2 })));
    }
}
