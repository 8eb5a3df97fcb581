//! Timers that send signals: `setitimer` and POSIX timers.
//!
//! As in Linux, the alarm of a timer is set again, and the expirations meanwhile are counted, when its signal
//! is taken: a timer has at most one pending signal, whose room is reserved, and no interval makes the timer
//! interrupt frequent.

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

/// The signal of a timer.
#[derive(Clone, Copy)]
pub struct Notification {
    pub receiver: Receiver,
    pub signal: Signal,
    pub info: SigInfo,
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
        let Notification { receiver, signal, info } = self.notification;
        // An error concerns a thread that exited, or a signal that stops.
        let _ = signals::send(&process, receiver, Some(signal), |_| info);
    }
}

pub struct ProcessTimer {
    clock: ClockId,
    schedule: Schedule,
    /// The expirations between that of the last signal and its handler.
    overrun: u32,
    /// `None` for a timer without notification.
    alarm: Option<(Arc<dyn Alarm>, Notification)>,
}

impl ProcessTimer {
    /// # Errors
    /// `EAGAIN` without memory, or if there are too many timers; `EINVAL` without the receiver.
    fn new(
        process: &Arc<Process>,
        clock: ClockId,
        notification: Option<Notification>,
    ) -> Result<Self, Errno> {
        let alarm = match notification {
            Some(notification) => Some((register(process, notification)?, notification)),
            None => None,
        };
        Ok(Self { clock, schedule: Schedule::default(), overrun: 0, alarm })
    }

    /// Returns the time until the next expiration, and the interval.
    pub fn get(&self) -> (Nanoseconds, Nanoseconds) {
        (self.schedule.remaining(sched::time::now()), self.schedule.interval)
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
        let before = self.get();
        // First: a signal of the old schedule is not sent afterwards.
        self.disarm();
        self.discard_signal(process);
        self.schedule = Schedule::new(value, interval, is_absolute.then_some(self.clock));
        self.overrun = 0;
        self.set_alarm();
        before
    }

    fn discard_signal(&self, process: &Process) {
        if let Some((_, Notification { receiver, info, .. })) = self.alarm
            && let Some(id) = info.timer_id()
        {
            with_pending(process, receiver, |pending| pending.discard_timer(id));
        }
    }

    fn set_alarm(&self) {
        if let Some((alarm, _)) = &self.alarm {
            alarm::set(alarm, self.schedule.first);
        }
    }

    /// Counts the expirations and sets the alarm again, when a signal of the timer is taken.
    fn take(&mut self) {
        if let Ok(count) = self.schedule.take(sched::time::now()) {
            self.overrun = u32::try_from(count - 1).unwrap_or(u32::MAX).min(i32::MAX as u32);
            self.set_alarm();
        }
    }

    fn remove(mut self, process: &Process) {
        self.disarm();
        self.discard_signal(process);
        if let Some((_, Notification { receiver, .. })) = self.alarm {
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
        if let Some((alarm, _)) = &self.alarm {
            alarm::remove(alarm);
        }
    }
}

fn register(process: &Arc<Process>, notification: Notification) -> Result<Arc<dyn Alarm>, Errno> {
    let notifier = Notifier { process: Arc::downgrade(process), notification };
    let alarm: Arc<dyn Alarm> = heap::try_arc(notifier).ok_or(Errno::EAGAIN)?;
    with_pending(process, notification.receiver, PendingSignals::reserve_timer).ok_or(Errno::EINVAL)??;
    if !alarm::register(alarm.clone()) {
        with_pending(process, notification.receiver, PendingSignals::release_timer);
        return Err(Errno::EAGAIN);
    }
    Ok(alarm)
}

/// Calls `change` with the pending signals of `receiver`; `None` if there is no such thread.
fn with_pending<R>(
    process: &Process,
    receiver: Receiver,
    change: impl FnOnce(&mut PendingSignals) -> R,
) -> Option<R> {
    match receiver {
        Receiver::Process => Some(change(&mut process.signals.lock().pending)),
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
    /// That of `setitimer`, from its first use on.
    real: Option<ProcessTimer>,
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

    /// Returns the timer of `setitimer`, if it was used.
    pub fn real(&mut self) -> Option<&mut ProcessTimer> {
        self.real.as_mut()
    }

    /// Returns the timer of `setitimer`.
    ///
    /// # Errors
    /// As for [`ProcessTimer::new`].
    pub fn make_real(&mut self, process: &Arc<Process>) -> Result<&mut ProcessTimer, Errno> {
        let timer = match self.real.take() {
            Some(timer) => timer,
            None => {
                let info = SigInfo { code: SI_KERNEL, ..SigInfo::sent(Signal::SIGALRM, SI_KERNEL, 0) };
                let receiver = Receiver::Process;
                let notification = Notification { receiver, signal: Signal::SIGALRM, info };
                ProcessTimer::new(process, ClockId::Monotonic, Some(notification))?
            }
        };
        Ok(self.real.insert(timer))
    }

    /// Counts the expirations of the timer that sent a signal, which is taken now.
    pub fn signal_taken(&mut self, signal: Signal, info: &mut SigInfo) {
        if let Some(timer) = info.timer_id().and_then(|id| self.get(id as i32).ok()) {
            timer.take();
            info.set_overrun(timer.overrun);
        }
        // Whichever sender: SIGALRM is pending once.
        if let Some(real) = self.real.as_mut().filter(|_| signal == Signal::SIGALRM) {
            real.take();
        }
    }

    /// Sets the alarms of timers again whose expirations were ignored, since `signal` is not any more.
    pub fn signal_not_ignored(&mut self, signal: Signal) {
        for timer in self.real.iter_mut().chain(self.posix.iter_mut().flatten()) {
            if timer.alarm.as_ref().is_some_and(|(_, notification)| notification.signal == signal) {
                timer.take();
            }
        }
    }

    /// Removes all timers.
    pub fn clear(&mut self, process: &Process) {
        self.real.take().into_iter().for_each(|timer| timer.remove(process));
        self.clear_posix(process);
    }

    /// Removes the POSIX timers, as `execve` does.
    pub fn clear_posix(&mut self, process: &Process) {
        self.posix.drain(..).flatten().for_each(|timer| timer.remove(process));
    }
}
