//! Rate limit of printed events.
//!
//! One failed DMA can leave a thousand records, and a failing device may never stop. Each stream may have
//! [`BURST`] events printed in each window of [`WINDOW_US`](crate::rate_limiter::WINDOW_US), and all streams
//! together [`LINES`] lines. Further events are counted: the count of a stream is reported at the end of the
//! drain with its first suppressed event, and again when that window ends. Counts without a line left are
//! added to one count of all streams, which is reported when the window ends.

use crate::rate_limiter::RateLimiter;
use addr::StreamId;

/// Events printed of a stream in each window.
pub const BURST: u32 = 8;
/// Lines about streams in each window, plus one for the count of all streams.
pub const LINES: u32 = 128;
/// Number of streams tracked. A new stream replaces the least recently active one.
const STREAMS: usize = 64;

/// Suppressed events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuppressedEvents {
    /// Their stream; `None` for a count of several streams.
    pub stream: Option<StreamId>,
    /// Events since the last report.
    pub count: u64,
}

#[derive(Clone, Copy)]
struct StreamLimit {
    stream: StreamId,
    events: RateLimiter,
    last_seen: u64,
    announced: bool,
}

impl StreamLimit {
    fn new(stream: StreamId, now: u64) -> Self {
        Self { stream, events: RateLimiter::starting_at(BURST, now), last_seen: now, announced: false }
    }
}

/// The rate limits of the recently active streams.
pub(super) struct EventRateLimit {
    streams: [Option<StreamLimit>; STREAMS],
    /// Lines of all streams; its suppressed events are those whose count had no line.
    lines: RateLimiter,
}

impl EventRateLimit {
    pub const fn new() -> Self {
        Self { streams: [None; STREAMS], lines: RateLimiter::new(LINES) }
    }

    /// Whether this event of `stream` is to be printed. Calls `report` for earlier suppressed events when a
    /// new window starts or another stream is replaced.
    pub fn admit(&mut self, stream: StreamId, now: u64, report: &mut impl FnMut(SuppressedEvents)) -> bool {
        self.roll_over(now, report);
        let slot = self.slot(stream);
        let mut limit = self.streams[slot].unwrap_or(StreamLimit::new(stream, now));
        if limit.stream != stream || limit.events.has_ended(now) {
            self.report(&mut limit, report);
            limit = StreamLimit::new(stream, now);
        }
        limit.last_seen = now;
        let admitted = limit.events.has_room() && self.lines.try_admit();
        match admitted {
            true => _ = limit.events.try_admit(),
            false => limit.events.suppress(1),
        }
        self.streams[slot] = Some(limit);
        admitted
    }

    /// Calls `report` for each stream with suppressed events that was not announced in its window, or whose
    /// window has ended: the stream may have no further event.
    pub fn announce(&mut self, now: u64, mut report: impl FnMut(SuppressedEvents)) {
        self.roll_over(now, &mut report);
        for slot in 0..STREAMS {
            if let Some(mut limit) = self.streams[slot]
                && (!limit.announced || limit.events.has_ended(now))
            {
                limit.announced |= self.report(&mut limit, &mut report);
                self.streams[slot] = Some(limit);
            }
        }
    }

    /// Starts a new window of the lines if the current one has ended.
    fn roll_over(&mut self, now: u64, report: &mut impl FnMut(SuppressedEvents)) {
        if let Some(count) = self.lines.roll_over(now) {
            report(SuppressedEvents { stream: None, count });
        }
    }

    /// Reports the suppressed events of a stream, in a line of its own or in the count of all streams.
    /// Returns whether there were any.
    fn report(&mut self, limit: &mut StreamLimit, report: &mut impl FnMut(SuppressedEvents)) -> bool {
        let Some(count) = limit.events.take_suppressed() else { return false };
        match self.lines.try_admit() {
            true => report(SuppressedEvents { stream: Some(limit.stream), count }),
            false => self.lines.suppress(count),
        }
        true
    }

    /// The slot of `stream`, a free slot, or that of the least recently active stream.
    fn slot(&self, stream: StreamId) -> usize {
        let known = |limit: &Option<StreamLimit>| limit.is_some_and(|limit| limit.stream == stream);
        let age = |slot: &usize| self.streams[*slot].map(|limit| limit.last_seen);
        self.streams.iter().position(known).or_else(|| (0..STREAMS).min_by_key(age)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limiter::WINDOW_US;
    use alloc::vec::Vec;

    fn stream(number: u32) -> StreamId {
        StreamId::new(number)
    }

    fn of(number: u32, count: u64) -> SuppressedEvents {
        SuppressedEvents { stream: Some(stream(number)), count }
    }

    /// Whether an event is admitted; nothing may be reported.
    fn admit(limit: &mut EventRateLimit, number: u32, now: u64) -> bool {
        limit.admit(stream(number), now, &mut |dropped| panic!("{dropped:?}"))
    }

    #[test]
    fn events_beyond_the_burst_are_counted_and_reported_once() {
        let mut limit = EventRateLimit::new();
        let reported = (0..1024).filter(|_| admit(&mut limit, 8, 5)).count();
        assert_eq!(reported, BURST as usize);
        let mut reported_counts = Vec::new();
        limit.announce(5, |dropped| reported_counts.push(dropped));
        assert_eq!(reported_counts, [of(8, 1024 - u64::from(BURST))]);
        admit(&mut limit, 8, 6);
        limit.announce(6, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn count_of_an_inactive_stream_is_reported_when_its_window_ends() {
        let mut limit = EventRateLimit::new();
        (0..=BURST).for_each(|_| _ = admit(&mut limit, 8, 0));
        limit.announce(0, |_| {});
        (0..5).for_each(|_| _ = admit(&mut limit, 8, 1));
        limit.announce(WINDOW_US, |dropped| panic!("{dropped:?}"));
        let mut reported_counts = Vec::new();
        limit.announce(WINDOW_US + 1, |dropped| reported_counts.push(dropped));
        assert_eq!(reported_counts, [of(8, 5)]);
        limit.announce(3 * WINDOW_US, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn new_window_reports_suppressed_events_of_the_previous_one() {
        let mut limit = EventRateLimit::new();
        for _ in 0..BURST + 3 {
            admit(&mut limit, 1, 0);
        }
        let mut reported_counts = Vec::new();
        assert!(limit.admit(stream(1), WINDOW_US + 1, &mut |dropped| reported_counts.push(dropped)));
        assert_eq!(reported_counts, [of(1, 3)]);
    }

    #[test]
    fn noisy_stream_does_not_suppress_another() {
        let mut limit = EventRateLimit::new();
        for _ in 0..100 {
            admit(&mut limit, 1, 0);
        }
        assert!(admit(&mut limit, 2, 0));
    }

    #[test]
    fn replaced_stream_keeps_its_count() {
        let mut limit = EventRateLimit::new();
        for _ in 0..BURST + 2 {
            admit(&mut limit, 0, 1);
        }
        for other in 1..STREAMS as u32 {
            admit(&mut limit, other, 2);
        }
        let mut reported_counts = Vec::new();
        assert!(limit.admit(stream(99), 3, &mut |dropped| reported_counts.push(dropped)));
        assert_eq!(reported_counts, [of(0, 2)]);
    }

    /// 500 streams in turn: each replaces another one and has a new burst.
    #[test]
    fn log_is_bounded_and_no_event_is_uncounted() {
        const EVENTS: u64 = if cfg!(miri) { 2000 } else { 100_000 };
        let mut limit = EventRateLimit::new();
        let (mut lines, mut counted) = (0, 0);
        for event in 0..EVENTS {
            let mut report = |dropped: SuppressedEvents| {
                lines += 1;
                counted += dropped.count;
            };
            let admitted = limit.admit(stream((event / 3 % 500) as u32), event, &mut report);
            if event % 512 == 511 {
                limit.announce(event, &mut report);
            }
            lines += u64::from(admitted);
            counted += u64::from(admitted);
        }
        assert_eq!(lines, u64::from(LINES), "in one window");
        let mut rest = 0;
        for window in 2..4 {
            limit.announce(window * WINDOW_US, |dropped| {
                rest += 1;
                counted += dropped.count;
            });
        }
        assert_eq!(counted, EVENTS);
        assert!(rest <= STREAMS + 1, "{rest} lines afterwards");
    }
}
