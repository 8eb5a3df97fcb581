//! `timerfd`: the expirations of a timer as a file.
//!
//! The expirations are computed from the time when the file is read or polled; the alarm only notifies the
//! watchers. As in Linux, it rings for the first of the expirations that are not read.

use super::File;
use super::readiness::{Watchable, Watched};
use crate::memory::heap;
use crate::sched::alarm::{self, Alarm};
use crate::sched::{self, Nanoseconds};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::PollEvents;
use addr::UserVa;
use alloc::sync::Arc;

/// Times on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Schedule {
    /// The first expiration that is not read; `None` if the timer is not armed.
    first: Option<Nanoseconds>,
    /// The time between expirations; 0 for a single one.
    interval: Nanoseconds,
}

impl Schedule {
    fn has_expired(&self, now: Nanoseconds) -> bool {
        self.first.is_some_and(|first| first <= now)
    }

    /// Returns the number of expirations, after which later ones are counted.
    ///
    /// # Errors
    /// `EAGAIN` if there is none.
    fn take(&mut self, now: Nanoseconds) -> Result<u64, Errno> {
        let first = self.first.filter(|&first| first <= now).ok_or(Errno::EAGAIN)?;
        let later = (now - first).checked_div(self.interval);
        self.first = later.map(|later| first.saturating_add((later + 1).saturating_mul(self.interval)));
        Ok(1 + later.unwrap_or(0))
    }

    /// Returns the time until the next expiration; 0 if there is none.
    fn remaining(&self, now: Nanoseconds) -> Nanoseconds {
        match self.first {
            Some(first) if first > now => first - now,
            Some(first) if self.interval > 0 => self.interval - (now - first) % self.interval,
            _ => 0,
        }
    }
}

struct Timer(Watched<Schedule>);

impl Alarm for Timer {
    fn ring(&self) {
        self.0.update(|_| ((), Some(PollEvents::IN)));
    }
}

pub struct TimerFd {
    timer: Arc<Timer>,
    /// The same timer.
    alarm: Arc<dyn Alarm>,
    /// Whether absolute times are times since the epoch.
    is_realtime: bool,
}

impl TimerFd {
    /// # Errors
    /// `ENOMEM`, also if there are too many timers.
    pub fn new(is_realtime: bool) -> Result<Self, Errno> {
        let timer = heap::try_arc(Timer(Watched::new(Schedule::default()))).ok_or(Errno::ENOMEM)?;
        let alarm: Arc<dyn Alarm> = timer.clone();
        if !alarm::register(alarm.clone()) {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { timer, alarm, is_realtime })
    }

    /// Arms the timer for `value`, a duration or an absolute time, and then each `interval` unless it is 0.
    /// A value of 0 disarms it. Returns the state before as [`get`](Self::get) does.
    pub fn set(
        &self,
        value: Nanoseconds,
        interval: Nanoseconds,
        is_absolute: bool,
    ) -> (Nanoseconds, Nanoseconds) {
        let now = sched::time::now();
        let first = match value {
            0 => None,
            at if is_absolute && self.is_realtime => Some(sched::time::from_realtime(at)),
            at if is_absolute => Some(at),
            duration => Some(now.saturating_add(duration)),
        };
        let before = self.timer.0.with(|schedule| core::mem::replace(schedule, Schedule { first, interval }));
        self.set_alarm();
        (before.remaining(now), before.interval)
    }

    /// Returns the time until the next expiration, and the interval.
    pub fn get(&self) -> (Nanoseconds, Nanoseconds) {
        self.timer.0.with(|schedule| (schedule.remaining(sched::time::now()), schedule.interval))
    }

    /// Sets the alarm for the schedule. The last of concurrent calls finds the last schedule.
    fn set_alarm(&self) {
        loop {
            let schedule = self.timer.0.with(|schedule| *schedule);
            alarm::set(&self.alarm, schedule.first);
            if self.timer.0.with(|now| *now == schedule) {
                return;
            }
        }
    }
}

impl File for TimerFd {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        if len < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let count = self.timer.0.with(|schedule| schedule.take(sched::time::now()))?;
        self.set_alarm();
        memory.write(to, &count)?;
        Ok(size_of::<u64>())
    }

    fn seek(&self, _offset: i64, _whence: u64) -> Result<u64, Errno> {
        Ok(0)
    }

    fn poll(&self) -> PollEvents {
        let has_expired = self.timer.0.with(|schedule| schedule.has_expired(sched::time::now()));
        if has_expired { PollEvents::IN } else { PollEvents::empty() }
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&self.timer.0)
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        alarm::remove(&self.alarm);
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
