//! The expirations of timers.

use super::run_queue::Nanoseconds;
use super::time;
use abi::Errno;
use abi::clock::ClockId;

/// The expirations of a timer. Times are on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    /// The first expiration that is not taken; `None` if the timer is not armed.
    pub first: Option<Nanoseconds>,
    /// The time between expirations; 0 for a single one.
    pub interval: Nanoseconds,
}

impl Schedule {
    /// Returns the schedule of a timer that is armed for `value`, a duration or, on the clock `absolute`, a
    /// time, and then each `interval` unless it is 0. A value of 0 disarms it.
    pub fn new(value: Nanoseconds, interval: Nanoseconds, absolute: Option<ClockId>) -> Self {
        let first = match (value, absolute) {
            (0, _) => None,
            (at, Some(ClockId::Realtime)) => Some(time::from_realtime(at)),
            (at, Some(_)) => Some(at),
            (duration, None) => Some(time::now().saturating_add(duration)),
        };
        Self { first, interval }
    }

    pub fn has_expired(&self, now: Nanoseconds) -> bool {
        self.first.is_some_and(|first| first <= now)
    }

    /// Returns the number of expirations, after which later ones are counted.
    ///
    /// # Errors
    /// `EAGAIN` if there is none.
    pub fn take(&mut self, now: Nanoseconds) -> Result<u64, Errno> {
        let first = self.first.filter(|&first| first <= now).ok_or(Errno::EAGAIN)?;
        let later = (now - first).checked_div(self.interval);
        self.first = later.map(|later| first.saturating_add((later + 1).saturating_mul(self.interval)));
        Ok(1 + later.unwrap_or(0))
    }

    /// Returns the time until the next expiration; 0 if there is none.
    pub fn remaining(&self, now: Nanoseconds) -> Nanoseconds {
        match self.first {
            Some(first) if first > now => first - now,
            Some(first) if self.interval > 0 => self.interval - (now - first) % self.interval,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_expiration_is_read_once() {
        let mut schedule = Schedule { first: Some(100), interval: 0 };
        assert_eq!((schedule.take(99), schedule.remaining(99)), (Err(Errno::EAGAIN), 1));
        assert!(!schedule.has_expired(99) && schedule.has_expired(100));
        assert_eq!(schedule.remaining(100), 0);
        assert_eq!([schedule.take(1000), schedule.take(2000)], [Ok(1), Err(Errno::EAGAIN)]);
    }

    #[test]
    fn periodic_expirations_are_counted_without_drift() {
        let mut schedule = Schedule { first: Some(100), interval: 30 };
        assert_eq!([100, 129, 130].map(|now| schedule.remaining(now)), [30, 1, 30]);
        assert_eq!(schedule.take(129), Ok(1));
        assert_eq!(schedule.first, Some(130));
        assert_eq!(schedule.take(221), Ok(4));
        assert_eq!((schedule.first, schedule.take(221)), (Some(250), Err(Errno::EAGAIN)));
        let mut fast = Schedule { first: Some(0), interval: 1 };
        assert_eq!(fast.take(u64::MAX - 1), Ok(u64::MAX));
    }
}
