//! System calls on time.

use super::{SyscallContext, SyscallResult};
use crate::sched::{self, WaitError};
use abi::Errno;
use abi::clock::*;
use addr::UserVa;

/// `clock_gettime`
pub fn get_time(call: &SyscallContext<'_>) -> SyscallResult {
    let now = read_clock(call, clock(call)?)?;
    call.memory().write(call.address(1), &Timespec::from_nanoseconds(now)).map(|()| 0)
}

/// `clock_getres`
pub fn get_resolution(call: &SyscallContext<'_>) -> SyscallResult {
    read_clock(call, clock(call)?)?;
    let tick = arch::timer::ticks_to_ns(1).max(1);
    call.memory().write_optional(call.address(1), &Timespec::from_nanoseconds(tick)).map(|()| 0)
}

/// `gettimeofday`
pub fn get_time_of_day(call: &SyscallContext<'_>) -> SyscallResult {
    let now = Timeval::from_nanoseconds(sched::time::realtime_now());
    call.memory().write_optional(call.address(0), &now)?;
    call.memory().write_optional(call.address(1), &Timezone::default()).map(|()| 0)
}

pub fn times(call: &SyscallContext<'_>) -> SyscallResult {
    const TICK_NS: u64 = NANOSECONDS / USER_HZ;
    let times = Tms { user: (call.process().cpu_time() / TICK_NS) as i64, ..Tms::default() };
    call.memory().write_optional(call.address(0), &times)?;
    Ok(sched::time::now() / TICK_NS)
}

/// `clock_nanosleep`
pub fn clock_nano_sleep(call: &SyscallContext<'_>) -> SyscallResult {
    let clock = ClockId::for_sleep(call.int(0))?;
    let flags = call.value(1);
    sleep(call, (flags & TIMER_ABSTIME != 0).then_some(clock), call.address(2), call.address(3))
}

/// `nanosleep`
pub fn nano_sleep(call: &SyscallContext<'_>) -> SyscallResult {
    sleep(call, None, call.address(0), call.address(1))
}

/// Sleeps until the time at `duration` on the clock `absolute`, or for that duration.
fn sleep(
    call: &SyscallContext<'_>,
    absolute: Option<ClockId>,
    duration: UserVa,
    remaining: UserVa,
) -> SyscallResult {
    let time: Timespec = call.memory().read(duration)?;
    let time = time.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let deadline = match absolute {
        Some(ClockId::Realtime) => sched::time::from_realtime(time),
        Some(_) => time,
        None => sched::time::now().saturating_add(time),
    };
    match sched::sleep_until_signal(deadline) {
        Ok(()) | Err(WaitError::TimedOut) => Ok(0),
        Err(WaitError::Interrupted) => {
            let remaining_ns = deadline.saturating_sub(sched::time::now());
            if absolute.is_none() {
                call.memory().write_optional(remaining, &Timespec::from_nanoseconds(remaining_ns))?;
            }
            Err(Errno::EINTR)
        }
    }
}

fn clock(call: &SyscallContext<'_>) -> Result<ClockId, Errno> {
    ClockId::from_id(call.int(0)).ok_or(Errno::EINVAL)
}

/// Returns the time of `clock`.
///
/// # Errors
/// `EINVAL` for the CPU time of another process, or of a thread of one.
fn read_clock(call: &SyscallContext<'_>, clock: ClockId) -> Result<u64, Errno> {
    match clock {
        ClockId::Realtime => Ok(sched::time::realtime_now()),
        ClockId::Monotonic => Ok(sched::time::now()),
        ClockId::ProcessCpu(id) if id == 0 || id == call.process().id() => Ok(call.process().cpu_time()),
        ClockId::ProcessCpu(_) => Err(Errno::EINVAL),
        ClockId::ThreadCpu(id) => {
            let id = if id == 0 { call.task.id() } else { id };
            call.process().cpu_time_of(id).ok_or(Errno::EINVAL)
        }
    }
}
