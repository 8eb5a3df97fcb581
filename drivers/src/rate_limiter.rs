//! Rate limit that counts suppressed events.

/// Length of the window of a [`RateLimiter`] in microseconds.
pub const WINDOW_US: u64 = 1_000_000;

/// At most `burst` events in each window of [`WINDOW_US`]; the others are suppressed and counted.
///
/// The caller supplies the time: [`RateLimiter::roll_over`] starts a new window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimiter {
    burst: u32,
    window_start: u64,
    admitted: u32,
    suppressed: u64,
}

impl RateLimiter {
    /// A limiter whose window starts at time 0.
    pub const fn new(burst: u32) -> Self {
        Self::starting_at(burst, 0)
    }

    /// A limiter whose window starts at `now` (microseconds).
    pub const fn starting_at(burst: u32, now: u64) -> Self {
        Self { burst, window_start: now, admitted: 0, suppressed: 0 }
    }

    /// Whether the window has room for one more event; a refused one is counted as suppressed.
    pub fn admit(&mut self) -> bool {
        let admitted = self.try_admit();
        self.suppress(u64::from(!admitted));
        admitted
    }

    /// [`RateLimiter::admit`] without the count.
    pub fn try_admit(&mut self) -> bool {
        let has_room = self.has_room();
        self.admitted += u32::from(has_room);
        has_room
    }

    /// Whether the window has room for one more event.
    pub fn has_room(&self) -> bool {
        self.admitted < self.burst
    }

    /// Counts `events` as suppressed.
    pub fn suppress(&mut self, events: u64) {
        self.suppressed += events;
    }

    /// Starts a new window at `now` (microseconds) if the current one has ended, and returns the number of
    /// suppressed events of the ended window, if any.
    pub fn roll_over(&mut self, now: u64) -> Option<u64> {
        if !self.has_ended(now) {
            return None;
        }
        let suppressed = self.take_suppressed();
        *self = Self::starting_at(self.burst, now);
        suppressed
    }

    /// Whether the window has ended at `now`.
    pub fn has_ended(&self, now: u64) -> bool {
        now.saturating_sub(self.window_start) > WINDOW_US
    }

    /// The number of events suppressed since the last call, if any.
    pub fn take_suppressed(&mut self) -> Option<u64> {
        Some(core::mem::take(&mut self.suppressed)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppressed_events_are_reported_when_the_window_ends() {
        const BURST: u32 = 8;
        let mut limiter = RateLimiter::new(BURST);
        let admitted = (0..100).filter(|_| limiter.admit()).count();
        assert_eq!((admitted, limiter.roll_over(WINDOW_US)), (BURST as usize, None));
        assert_eq!(limiter.roll_over(WINDOW_US + 1), Some(100 - u64::from(BURST)));
        assert!(limiter.admit());
        assert_eq!(limiter.roll_over(3 * WINDOW_US), None, "nothing was suppressed");
    }
}
