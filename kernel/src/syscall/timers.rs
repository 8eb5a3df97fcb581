//! System calls on timers that send signals.

use super::events::timer_spec;
use super::{SyscallContext, SyscallResult};
use crate::process::signals::Receiver;
use crate::process::timers::Notification;
use crate::sched::Nanoseconds;
use abi::Errno;
use abi::clock::*;
use abi::signal::*;

/// `getitimer`
pub fn get_interval(call: &SyscallContext<'_>) -> SyscallResult {
    let process = call.process();
    let state = process.timers.lock().interval(call.int(0))?.map_or((0, 0), |timer| timer.get(process));
    call.memory().write(call.address(1), &timer_val(state)).map(|()| 0)
}

/// `setitimer`: without a new value, the timer is disarmed.
pub fn set_interval(call: &SyscallContext<'_>) -> SyscallResult {
    let new = match call.value(1) {
        0 => TimerVal::default(),
        _ => call.memory().read(call.address(1))?,
    };
    let value = new.value.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let process = call.process();
    let old = process.timers.lock().make_interval(process, call.int(0))?.set(process, value, interval, false);
    call.memory().write_optional(call.address(2), &timer_val(old)).map(|()| 0)
}

fn timer_val((value, interval): (Nanoseconds, Nanoseconds)) -> TimerVal {
    let [interval, value] = [interval, value].map(Timeval::from_nanoseconds);
    TimerVal { interval, value }
}

/// `timer_create`
pub fn create(call: &SyscallContext<'_>) -> SyscallResult {
    let clock = own_clock(call, ClockId::for_timer(call.int(0))?)?;
    let event: Option<SigEvent> = match call.value(1) {
        0 => None,
        _ => Some(call.memory().read(call.address(1))?),
    };
    let target = match event {
        None => Some((Receiver::RunningThread, Signal::SIGALRM)),
        Some(event) => receiver(&event)?,
    };
    let process = call.process();
    let id = process.timers.lock().create(process, clock, |id| {
        let (receiver, signal) = target?;
        let value = event.map_or(id.into(), |event| event.value);
        Some(Notification { receiver, signal, info: SigInfo::timer(signal, id, value) })
    })?;
    if let Err(error) = call.memory().write(call.address(2), &id) {
        process.timers.lock().delete(process, id as i32)?;
        return Err(error);
    }
    Ok(0)
}

/// Returns the clock of a timer, of CPU time with the id of the thread.
///
/// # Errors
/// `EINVAL` for the CPU time of another process.
fn own_clock(call: &SyscallContext<'_>, clock: ClockId) -> Result<ClockId, Errno> {
    match clock {
        ClockId::ProcessCpu(id) if id != 0 && id != call.process().id() => Err(Errno::EINVAL),
        ClockId::ThreadCpu(0) => Ok(ClockId::ThreadCpu(call.task.id())),
        ClockId::ThreadCpu(id) if call.process().thread(id).is_none() => Err(Errno::EINVAL),
        clock => Ok(clock),
    }
}

/// Returns the receiver and the signal of a notification; `None` for no notification.
///
/// # Errors
/// `EINVAL` for an unknown notification or signal.
fn receiver(event: &SigEvent) -> Result<Option<(Receiver, Signal)>, Errno> {
    let receiver = match event.notify {
        SIGEV_NONE => return Ok(None),
        SIGEV_SIGNAL | SIGEV_THREAD => Receiver::RunningThread,
        SIGEV_THREAD_ID => Receiver::Thread(event.thread),
        _ => return Err(Errno::EINVAL),
    };
    let number = u64::try_from(event.signal).map_err(|_| Errno::EINVAL)?;
    Ok(Some((receiver, Signal::from_number(number).ok_or(Errno::EINVAL)?)))
}

/// `timer_settime`
pub fn set(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(2) == 0 {
        return Err(Errno::EINVAL);
    }
    let new: TimerSpec = call.memory().read(call.address(2))?;
    let value = new.value.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let is_absolute = call.value(1) & TIMER_ABSTIME != 0;
    let process = call.process();
    let old = process.timers.lock().get(call.int(0))?.set(process, value, interval, is_absolute);
    call.memory().write_optional(call.address(3), &timer_spec(old)).map(|()| 0)
}

/// `timer_gettime`
pub fn get(call: &SyscallContext<'_>) -> SyscallResult {
    let process = call.process();
    let state = process.timers.lock().get(call.int(0))?.get(process);
    call.memory().write(call.address(1), &timer_spec(state)).map(|()| 0)
}

/// `timer_getoverrun`
pub fn overrun(call: &SyscallContext<'_>) -> SyscallResult {
    call.process().timers.lock().overrun(call.int(0)).map(u64::from)
}

/// `timer_delete`
pub fn delete(call: &SyscallContext<'_>) -> SyscallResult {
    call.process().timers.lock().delete(call.process(), call.int(0)).map(|()| 0)
}
