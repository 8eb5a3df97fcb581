//! System calls on time. The only clock is the counter: every clock starts at boot.

use super::{SyscallContext, SyscallResult};
use crate::sched::{self, WaitError};
use abi::Errno;
use abi::clock::*;
use addr::UserVa;

/// `clock_gettime`
pub fn get_time(call: &SyscallContext<'_>) -> SyscallResult {
    check_clock(call.value(0))?;
    let now = Timespec::from_nanoseconds(sched::time::now());
    call.memory().write(call.address(1), &now).map(|()| 0)
}

/// `clock_getres`
pub fn get_resolution(call: &SyscallContext<'_>) -> SyscallResult {
    check_clock(call.value(0))?;
    let tick = arch::timer::ticks_to_ns(1).max(1);
    call.memory().write_optional(call.address(1), &Timespec::from_nanoseconds(tick)).map(|()| 0)
}

/// `clock_nanosleep`
pub fn clock_nano_sleep(call: &SyscallContext<'_>) -> SyscallResult {
    check_clock(call.value(0))?;
    sleep(call, call.value(1) & TIMER_ABSTIME != 0, call.address(2), call.address(3))
}

/// `nanosleep`
pub fn nano_sleep(call: &SyscallContext<'_>) -> SyscallResult {
    sleep(call, false, call.address(0), call.address(1))
}

fn sleep(call: &SyscallContext<'_>, absolute: bool, duration: UserVa, remaining: UserVa) -> SyscallResult {
    let time: Timespec = call.memory().read(duration)?;
    let time = time.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let deadline = if absolute { time } else { sched::time::now().saturating_add(time) };
    match sched::sleep_until(deadline) {
        Ok(()) | Err(WaitError::TimedOut) => Ok(0),
        Err(WaitError::Interrupted) => {
            let remaining_ns = deadline.saturating_sub(sched::time::now());
            if !absolute {
                call.memory().write_optional(remaining, &Timespec::from_nanoseconds(remaining_ns))?;
            }
            Err(Errno::EINTR)
        }
    }
}

fn check_clock(clock: u64) -> Result<(), Errno> {
    if clock <= CLOCK_BOOTTIME { Ok(()) } else { Err(Errno::EINVAL) }
}
