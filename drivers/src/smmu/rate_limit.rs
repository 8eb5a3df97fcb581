//! How much of what goes wrong is worth a line.
//!
//! One DMA that fails can leave a thousand records, and a device that keeps failing never stops. So each stream may have
//! [`BURST`] events reported in each [`WINDOW`], and all streams together [`LINES`] lines. The others are counted: the count
//! of a stream is reported once at the end of the drain in which the first was left out, then when that window is over;
//! what there is no line left for goes into one count of all streams, when the window is over.

use addr::StreamId;

/// Events reported of a stream in each window.
pub const BURST: u32 = 8;
/// Lines about streams in each window, and one more about those that had none.
pub const LINES: u32 = 128;
/// Length of a window in microseconds.
pub const WINDOW: u64 = 1_000_000;
/// Streams told apart. The one that was quiet for longest makes room for a new one.
const STREAMS: usize = 64;

/// A few in each [`WINDOW`], and how many were left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimiter {
    burst: u32,
    since: u64,
    had: u32,
    left_out: u64,
}

impl RateLimiter {
    /// `burst` in each window.
    pub const fn new(burst: u32) -> Self {
        Self { burst, since: 0, had: 0, left_out: 0 }
    }

    /// Whether there is one left in this window. If not, it is counted.
    pub fn admit(&mut self) -> bool {
        let admits = self.take();
        self.left_out += u64::from(!admits);
        admits
    }

    /// [`RateLimiter::admit`] without counting.
    fn take(&mut self) -> bool {
        let takes = self.had < self.burst;
        self.had += u32::from(takes);
        takes
    }

    /// Begins another window if this one is over at `now` (microseconds); what was left out in it.
    pub fn renew(&mut self, now: u64) -> Option<u64> {
        if !self.is_over(now) {
            return None;
        }
        let left_out = self.left_out();
        *self = Self { since: now, ..Self::new(self.burst) };
        left_out
    }

    fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > WINDOW
    }

    /// What was left out since this was last asked.
    fn left_out(&mut self) -> Option<u64> {
        Some(core::mem::take(&mut self.left_out)).filter(|count| *count > 0)
    }
}

/// Events that were left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Of this stream; `None`: of several, since there were too many for a line each.
    pub stream: Option<StreamId>,
    /// How many since this was last said.
    pub count: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    stream: StreamId,
    events: RateLimiter,
    last_seen: u64,
    announced: bool,
}

/// The streams that were seen lately.
pub(super) struct EventRateLimit {
    entries: [Option<Entry>; STREAMS],
    /// Of all streams; what it leaves out are events whose count had no line.
    lines: RateLimiter,
}

impl EventRateLimit {
    pub const fn new() -> Self {
        Self { entries: [None; STREAMS], lines: RateLimiter::new(LINES) }
    }

    /// Whether this event of `stream` is worth a line. Calls `report` for what was left out before, when a new window
    /// begins or the stream's place goes to another.
    pub fn admit(&mut self, stream: StreamId, now: u64, report: &mut impl FnMut(Dropped)) -> bool {
        self.renew(now, report);
        let slot = self.slot(stream);
        let fresh = Entry {
            stream,
            events: RateLimiter { since: now, ..RateLimiter::new(BURST) },
            last_seen: now,
            announced: false,
        };
        let mut entry = self.entries[slot].unwrap_or(fresh);
        if entry.stream != stream || entry.events.is_over(now) {
            self.tell(&mut entry, report);
            entry = fresh;
        }
        entry.last_seen = now;
        let worth = entry.events.had < BURST && self.lines.take();
        match worth {
            true => entry.events.had += 1,
            false => entry.events.left_out += 1,
        }
        self.entries[slot] = Some(entry);
        worth
    }

    /// Calls `report` for each stream that had events left out and was not announced in its window, or whose window is
    /// over: it may never have another event.
    pub fn announce(&mut self, now: u64, mut report: impl FnMut(Dropped)) {
        self.renew(now, &mut report);
        for slot in 0..STREAMS {
            if let Some(mut entry) = self.entries[slot]
                && (!entry.announced || entry.events.is_over(now))
            {
                entry.announced |= self.tell(&mut entry, &mut report);
                self.entries[slot] = Some(entry);
            }
        }
    }

    /// Begins another window for all streams, if it is time.
    fn renew(&mut self, now: u64, report: &mut impl FnMut(Dropped)) {
        if let Some(count) = self.lines.renew(now) {
            report(Dropped { stream: None, count });
        }
    }

    /// Reports what was left out of a stream, if anything was: in a line of its own, or in the count of all. Whether
    /// anything was.
    fn tell(&mut self, entry: &mut Entry, report: &mut impl FnMut(Dropped)) -> bool {
        let Some(count) = entry.events.left_out() else { return false };
        match self.lines.take() {
            true => report(Dropped { stream: Some(entry.stream), count }),
            false => self.lines.left_out += count,
        }
        true
    }

    /// The entry of `stream`, or a free one, or the one that was quiet for longest.
    fn slot(&self, stream: StreamId) -> usize {
        let known = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.stream == stream);
        let age = |slot: &usize| self.entries[*slot].map(|entry| entry.last_seen);
        self.entries.iter().position(known).or_else(|| (0..STREAMS).min_by_key(age)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn stream(number: u32) -> StreamId {
        StreamId::new(number)
    }

    fn of(number: u32, count: u64) -> Dropped {
        Dropped { stream: Some(stream(number)), count }
    }

    /// Whether an event is worth a line, when nothing else is to be said.
    fn admit(limit: &mut EventRateLimit, number: u32, now: u64) -> bool {
        limit.admit(stream(number), now, &mut |dropped| panic!("{dropped:?}"))
    }

    #[test]
    fn a_burst_is_reported_and_the_rest_counted_once() {
        let mut limit = EventRateLimit::new();
        let reported = (0..1024).filter(|_| admit(&mut limit, 8, 5)).count();
        assert_eq!(reported, BURST as usize);
        let mut said = Vec::new();
        limit.announce(5, |dropped| said.push(dropped));
        assert_eq!(said, [of(8, 1024 - u64::from(BURST))]);
        admit(&mut limit, 8, 6);
        limit.announce(6, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn a_stream_that_fell_silent_has_its_last_count_told_when_its_window_is_over() {
        let mut limit = EventRateLimit::new();
        (0..=BURST).for_each(|_| _ = admit(&mut limit, 8, 0));
        limit.announce(0, |_| {});
        (0..5).for_each(|_| _ = admit(&mut limit, 8, 1));
        limit.announce(WINDOW, |dropped| panic!("{dropped:?}"));
        let mut said = Vec::new();
        limit.announce(WINDOW + 1, |dropped| said.push(dropped));
        assert_eq!(said, [of(8, 5)]);
        limit.announce(3 * WINDOW, |dropped| panic!("{dropped:?}"));
    }

    #[test]
    fn a_new_window_says_what_the_last_one_left_out() {
        let mut limit = EventRateLimit::new();
        for _ in 0..BURST + 3 {
            admit(&mut limit, 1, 0);
        }
        let mut said = Vec::new();
        assert!(limit.admit(stream(1), WINDOW + 1, &mut |dropped| said.push(dropped)));
        assert_eq!(said, [of(1, 3)]);
    }

    #[test]
    fn one_noisy_stream_does_not_silence_another() {
        let mut limit = EventRateLimit::new();
        for _ in 0..100 {
            admit(&mut limit, 1, 0);
        }
        assert!(admit(&mut limit, 2, 0));
    }

    #[test]
    fn more_streams_than_places_share_and_lose_no_count() {
        let mut limit = EventRateLimit::new();
        for _ in 0..BURST + 2 {
            admit(&mut limit, 0, 1);
        }
        for other in 1..STREAMS as u32 {
            admit(&mut limit, other, 2);
        }
        let mut said = Vec::new();
        assert!(limit.admit(stream(99), 3, &mut |dropped| said.push(dropped)));
        assert_eq!(said, [of(0, 2)]);
    }

    /// Each of them takes the place of another one and has a burst again.
    #[test]
    fn however_many_streams_fault_the_log_is_bounded_and_loses_no_count() {
        const EVENTS: u64 = if cfg!(miri) { 2000 } else { 100_000 };
        let mut limit = EventRateLimit::new();
        let (mut lines, mut counted) = (0, 0);
        for event in 0..EVENTS {
            let mut report = |dropped: Dropped| {
                lines += 1;
                counted += dropped.count;
            };
            let worth = limit.admit(stream((event / 3 % 500) as u32), event, &mut report);
            if event % 512 == 511 {
                limit.announce(event, &mut report);
            }
            lines += u64::from(worth);
            counted += u64::from(worth);
        }
        assert_eq!(lines, u64::from(LINES), "in one window");
        let mut rest = 0;
        for window in 2..4 {
            limit.announce(window * WINDOW, |dropped| {
                rest += 1;
                counted += dropped.count;
            });
        }
        assert_eq!(counted, EVENTS);
        assert!(rest <= STREAMS + 1, "{rest} lines afterwards");
    }

    #[test]
    fn what_a_ration_leaves_out_is_told_when_its_window_is_over() {
        let mut ration = RateLimiter::new(BURST);
        let had = (0..100).filter(|_| ration.admit()).count();
        assert_eq!((had, ration.renew(WINDOW)), (BURST as usize, None));
        assert_eq!(ration.renew(WINDOW + 1), Some(100 - u64::from(BURST)));
        assert!(ration.admit());
        assert_eq!(ration.renew(3 * WINDOW), None, "nothing was left out");
    }
}
