//! Timers that send signals: `setitimer` and POSIX timers.
//!
//! As in Linux, the alarm of a timer is set again, and the expirations meanwhile are counted, when its signal
//! is taken: a timer has at most one pending signal, whose room is reserved, and no interval makes the timer
//! interrupt frequent.
//!
//! A timer of CPU time has no alarm: each thread of its process compares the CPU time before it returns to
//! user space, at the latest at the end of its time slice, while such a timer is armed.

use super::process::Process;
use super::signals::{self, Receiver};
use super::task::Task;
use crate::memory::heap;
use crate::sched::alarm::{self, Alarm};
use crate::sched::{self, Nanoseconds, Schedule};
use abi::Errno;
use abi::clock::ClockId;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use program::PendingSignals;

/// The maximum number of POSIX timers of a process.
const TIMERS_MAX: usize = 128;
/// The signals and clocks of `ITIMER_REAL`, `ITIMER_VIRTUAL` and `ITIMER_PROF`. All CPU time is user time.
const INTERVAL_TIMERS: [(Signal, ClockId); 3] = [
    (Signal::SIGALRM, ClockId::Monotonic),
    (Signal::SIGVTALRM, ClockId::ProcessCpu(0)),
    (Signal::SIGPROF, ClockId::ProcessCpu(0)),
];

/// The signal of a timer.
#[derive(Clone, Copy)]
pub struct Notification {
    pub receiver: Receiver,
    pub signal: Signal,
    pub info: SigInfo,
}

impl Notification {
    fn send(&self, process: &Process) {
        // An error concerns a thread that exited.
        let _ = signals::send(process, self.receiver, Some(self.signal), |_| self.info);
    }
}

/// The part of a timer that its alarm reads.
struct Notifier {
    process: Weak<Process>,
    notification: Notification,
}

impl Alarm for Notifier {
    fn ring(&self) {
        // Not the last reference: the process removes its alarms before it is released.
        let Some(process) = self.process.upgrade() else { return };
        self.notification.send(&process);
    }
}

pub struct ProcessTimer {
    clock: ClockId,
    schedule: Schedule,
    /// The expirations between that of the last signal and its handler.
    overrun: u32,
    notification: Option<Notification>,
    /// `None` for a timer without notification, and for one of CPU time.
    alarm: Option<Arc<dyn Alarm>>,
    /// The first expiration was sent. For a timer without an alarm.
    is_sent: bool,
}

impl ProcessTimer {
    /// # Errors
    /// `EAGAIN` without memory, or if there are too many timers; `EINVAL` without the receiver.
    fn new(
        process: &Arc<Process>,
        clock: ClockId,
        notification: Option<Notification>,
    ) -> Result<Self, Errno> {
        let mut timer = Self {
            clock,
            schedule: Schedule::default(),
            overrun: 0,
            notification,
            alarm: None,
            is_sent: false,
        };
        if let Some(notification) = notification {
            let reserve = PendingSignals::reserve_timer;
            with_pending(process, notification.receiver, reserve).ok_or(Errno::EINVAL)??;
            if !clock.is_cpu_time() {
                timer.alarm = Some(register(process, notification).inspect_err(|_| {
                    with_pending(process, notification.receiver, PendingSignals::release_timer);
                })?);
            }
        }
        Ok(timer)
    }

    /// Returns the time of its clock: CPU time, or the monotonic time, on which all others are converted.
    fn now(&self, process: &Process) -> Nanoseconds {
        match self.clock {
            ClockId::ProcessCpu(_) => process.cpu_time(),
            ClockId::ThreadCpu(id) => process.cpu_time_of(id).unwrap_or_default(),
            ClockId::Realtime | ClockId::Monotonic => sched::time::now(),
        }
    }

    /// Returns the time until the next expiration, and the interval.
    pub fn get(&self, process: &Process) -> (Nanoseconds, Nanoseconds) {
        (self.schedule.remaining(self.now(process)), self.schedule.interval)
    }

    /// Arms the timer as [`Schedule::new`] does. Returns the state before as [`get`](Self::get) does. The
    /// signal of an earlier expiration is not pending afterwards.
    pub fn set(
        &mut self,
        process: &Process,
        value: Nanoseconds,
        interval: Nanoseconds,
        is_absolute: bool,
    ) -> (Nanoseconds, Nanoseconds) {
        let before = self.get(process);
        // First: a signal of the old schedule is not sent afterwards.
        self.disarm();
        self.discard_signal(process);
        self.schedule = if self.clock.is_cpu_time() {
            let start = if is_absolute { 0 } else { self.now(process) };
            Schedule { first: (value > 0).then(|| start.saturating_add(value)), interval }
        } else {
            Schedule::new(value, interval, is_absolute.then_some(self.clock))
        };
        self.overrun = 0;
        self.set_alarm();
        if self.clock.is_cpu_time() && self.schedule.first.is_some() {
            process.set_timed(true);
        }
        before
    }

    fn discard_signal(&self, process: &Process) {
        if let Some(Notification { receiver, info, .. }) = self.notification
            && let Some(id) = info.timer_id()
        {
            with_pending(process, receiver, |pending| pending.discard_timer(id));
        }
    }

    fn set_alarm(&mut self) {
        self.is_sent = false;
        if let Some(alarm) = &self.alarm {
            alarm::set(alarm, self.schedule.first);
        }
    }

    /// Sends the signal of the first expiration of CPU time. Returns whether the timer is armed.
    fn expire_cpu_time(&mut self, process: &Process) -> bool {
        let Some(notification) = self.notification.filter(|_| self.clock.is_cpu_time()) else { return false };
        if !self.is_sent && self.schedule.has_expired(self.now(process)) {
            self.is_sent = true;
            notification.send(process);
        }
        self.schedule.first.is_some()
    }

    /// Counts the expirations and sets the alarm again, when a signal of the timer is taken.
    fn take(&mut self, process: &Process) {
        if let Ok(count) = self.schedule.take(self.now(process)) {
            self.overrun = u32::try_from(count - 1).unwrap_or(u32::MAX).min(i32::MAX as u32);
            self.set_alarm();
        }
    }

    fn remove(mut self, process: &Process) {
        self.disarm();
        self.discard_signal(process);
        if let Some(Notification { receiver, .. }) = self.notification {
            with_pending(process, receiver, PendingSignals::release_timer);
        }
    }

    fn disarm(&mut self) {
        self.schedule = Schedule::default();
        self.set_alarm();
    }
}

impl Drop for ProcessTimer {
    fn drop(&mut self) {
        if let Some(alarm) = &self.alarm {
            alarm::remove(alarm);
        }
    }
}

/// Adds an alarm that sends `notification`.
///
/// # Errors
/// `EAGAIN` without memory, or if there are too many alarms.
fn register(process: &Arc<Process>, notification: Notification) -> Result<Arc<dyn Alarm>, Errno> {
    let notifier = Notifier { process: Arc::downgrade(process), notification };
    let alarm: Arc<dyn Alarm> = heap::try_arc(notifier).ok_or(Errno::EAGAIN)?;
    if alarm::register(alarm.clone()) { Ok(alarm) } else { Err(Errno::EAGAIN) }
}

/// Calls `change` with the pending signals of `receiver`; `None` if there is no such thread.
fn with_pending<R>(
    process: &Process,
    receiver: Receiver,
    change: impl FnOnce(&mut PendingSignals) -> R,
) -> Option<R> {
    match receiver {
        Receiver::Process | Receiver::RunningThread => Some(change(&mut process.signals.lock().pending)),
        Receiver::Thread(id) => process.with_threads(|threads| {
            let mut tasks = threads.iter().filter_map(|thread| Task::of(thread));
            let task = tasks.find(|task| task.id() == id)?;
            Some(change(&mut task.pending.lock()))
        }),
    }
}

/// The timers of a process.
#[derive(Default)]
pub struct Timers {
    /// Those of `setitimer`, from their first use on, by [`INTERVAL_TIMERS`].
    intervals: [Option<ProcessTimer>; INTERVAL_TIMERS.len()],
    /// The POSIX timers, by id.
    posix: Vec<Option<ProcessTimer>>,
}

impl Timers {
    /// Adds a timer whose notification is `notify` of its id.
    ///
    /// # Errors
    /// As for [`ProcessTimer::new`].
    pub fn create(
        &mut self,
        process: &Arc<Process>,
        clock: ClockId,
        notify: impl FnOnce(u32) -> Option<Notification>,
    ) -> Result<u32, Errno> {
        let id = self.posix.iter().position(Option::is_none).unwrap_or(self.posix.len());
        if id == self.posix.len() {
            if id == TIMERS_MAX || self.posix.try_reserve(1).is_err() {
                return Err(Errno::EAGAIN);
            }
            self.posix.push(None);
        }
        self.posix[id] = Some(ProcessTimer::new(process, clock, notify(id as u32))?);
        Ok(id as u32)
    }

    /// # Errors
    /// `EINVAL` if there is none.
    pub fn get(&mut self, id: i32) -> Result<&mut ProcessTimer, Errno> {
        let slot = usize::try_from(id).ok().and_then(|id| self.posix.get_mut(id));
        slot.and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }

    /// Returns the overrun count of a timer.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn overrun(&mut self, id: i32) -> Result<u32, Errno> {
        self.get(id).map(|timer| timer.overrun)
    }

    /// # Errors
    /// `EINVAL` if there is none.
    pub fn delete(&mut self, process: &Process, id: i32) -> Result<(), Errno> {
        self.get(id)?;
        let timer = self.posix[id as usize].take();
        timer.into_iter().for_each(|timer| timer.remove(process));
        Ok(())
    }

    /// Returns timer `which` of `setitimer`, if it was used.
    ///
    /// # Errors
    /// `EINVAL` if there is no such timer.
    pub fn interval(&mut self, which: i32) -> Result<Option<&mut ProcessTimer>, Errno> {
        let slot = usize::try_from(which).ok().and_then(|which| self.intervals.get_mut(which));
        slot.map(Option::as_mut).ok_or(Errno::EINVAL)
    }

    /// Returns timer `which` of `setitimer`.
    ///
    /// # Errors
    /// As for [`ProcessTimer::new`] and [`interval`](Self::interval).
    pub fn make_interval(&mut self, process: &Arc<Process>, which: i32) -> Result<&mut ProcessTimer, Errno> {
        self.interval(which)?;
        let which = which as usize;
        let (signal, clock) = INTERVAL_TIMERS[which];
        let timer = match self.intervals[which].take() {
            Some(timer) => timer,
            None => {
                let info = SigInfo { code: SI_KERNEL, ..SigInfo::sent(signal, SI_KERNEL, 0) };
                let notification = Notification { receiver: Receiver::RunningThread, signal, info };
                ProcessTimer::new(process, clock, Some(notification))?
            }
        };
        Ok(self.intervals[which].insert(timer))
    }

    /// Sends the signals of timers whose CPU time has passed. Called by a thread of the process.
    pub fn expire_cpu_times(&mut self, process: &Process) {
        let is_armed = self.all().fold(false, |armed, timer| timer.expire_cpu_time(process) | armed);
        if !is_armed {
            process.set_timed(false);
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut ProcessTimer> {
        self.intervals.iter_mut().chain(&mut self.posix).flatten()
    }

    /// Counts the expirations of the timer that sent a signal, which is taken now.
    pub fn signal_taken(&mut self, process: &Process, signal: Signal, info: &mut SigInfo) {
        if let Some(timer) = info.timer_id().and_then(|id| self.get(id as i32).ok()) {
            timer.take(process);
            info.set_overrun(timer.overrun);
        }
        // Whichever sender: the signal of an interval timer is pending once.
        for (timer, (own, _)) in self.intervals.iter_mut().zip(INTERVAL_TIMERS) {
            if let Some(timer) = timer.as_mut().filter(|_| own == signal) {
                timer.take(process);
            }
        }
    }

    /// Sends the signals of timers whose expirations were ignored, since `signal` is not any more.
    pub fn signal_not_ignored(&mut self, process: &Process, signal: Signal) {
        let is_its = |notification: &Notification| notification.signal == signal;
        // That of an interval timer stays lost: only the alarm is set again.
        for timer in self.intervals.iter_mut().flatten() {
            if timer.notification.as_ref().is_some_and(is_its) {
                timer.take(process);
            }
        }
        for timer in self.posix.iter_mut().flatten() {
            let notification = timer.notification.filter(is_its);
            if let Some(notification) =
                notification.filter(|_| timer.schedule.has_expired(timer.now(process)))
            {
                notification.send(process);
            }
        }
    }

    /// Removes all timers.
    pub fn clear(&mut self, process: &Process) {
        self.intervals.iter_mut().filter_map(Option::take).for_each(|timer| timer.remove(process));
        self.clear_posix(process);
    }

    /// Removes the POSIX timers, as `execve` does.
    pub fn clear_posix(&mut self, process: &Process) {
        self.posix.drain(..).flatten().for_each(|timer| timer.remove(process));
    }
}
