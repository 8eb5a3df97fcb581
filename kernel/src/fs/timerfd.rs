//! `timerfd`: the expirations of a timer as a file.
//!
//! The expirations are computed from the time when the file is read or polled; the alarm only notifies the
//! watchers. As in Linux, it rings for the first of the expirations that are not read.

use super::File;
use super::generated::Text;
use super::readiness::{Watchable, Watched};
use crate::memory::heap;
use crate::sched::alarm::{self, Alarm};
use crate::sched::{self, Nanoseconds, Schedule};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::clock::ClockId;
use abi::file::PollEvents;
use addr::UserVa;
use alloc::sync::Arc;

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
    /// The clock of absolute times.
    clock: ClockId,
}

impl TimerFd {
    /// # Errors
    /// `ENOMEM`, also if there are too many timers.
    pub fn new(clock: ClockId) -> Result<Self, Errno> {
        let timer = heap::try_arc(Timer(Watched::new(Schedule::default()))).ok_or(Errno::ENOMEM)?;
        let alarm: Arc<dyn Alarm> = timer.clone();
        if !alarm::register(alarm.clone()) {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { timer, alarm, clock })
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
        let new = Schedule::new(value, interval, is_absolute.then_some(self.clock));
        let before = self.timer.0.with(|schedule| core::mem::replace(schedule, new));
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

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[timerfd]")
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
