//! System calls on scheduling policies. They are recorded, and have no effect: the scheduler is round robin
//! for all threads.

use super::threads::find_thread;
use super::{SyscallContext, SyscallResult};
use crate::process::{SchedulingPolicy, Task};
use abi::Errno;
use abi::clock::Timespec;
use abi::process::{SCHED_FIFO, SCHED_RESET_ON_FORK, sched_priorities};
use addr::UserVa;

/// The time slice that `sched_rr_get_interval` reports.
const INTERVAL: Timespec = Timespec { seconds: 0, nanoseconds: 10_000_000 };

/// `sched_setscheduler`
pub fn set_policy(call: &SyscallContext<'_>) -> SyscallResult {
    if call.int(1) < 0 {
        return Err(Errno::EINVAL);
    }
    let policy = call.value(1) as u32;
    set(call, call.address(2), |_| policy)
}

/// `sched_setparam`
pub fn set_priority(call: &SyscallContext<'_>) -> SyscallResult {
    set(call, call.address(1), |current| current)
}

/// Sets the priority at `parameter` and the policy that `policy` returns for the current one.
fn set(call: &SyscallContext<'_>, parameter: UserVa, policy: impl Fn(u32) -> u32) -> SyscallResult {
    if call.int(0) < 0 || parameter.raw() == 0 {
        return Err(Errno::EINVAL);
    }
    let priority: u32 = call.memory().read(parameter)?;
    with_task(call, |task| {
        let policy = policy(task.scheduling_policy().policy);
        let range = sched_priorities(policy & !SCHED_RESET_ON_FORK).ok_or(Errno::EINVAL)?;
        if !range.contains(&priority) {
            return Err(Errno::EINVAL);
        }
        task.set_scheduling_policy(SchedulingPolicy { policy, priority });
        Ok(0)
    })
}

/// `sched_getscheduler`
pub fn policy(call: &SyscallContext<'_>) -> SyscallResult {
    with_task(call, |task| Ok(task.scheduling_policy().policy.into()))
}

/// `sched_getparam`
pub fn priority(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(1) == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = with_task(call, |task| Ok(task.scheduling_policy().priority.into()))?;
    call.memory().write(call.address(1), &(priority as u32)).map(|()| 0)
}

/// `sched_get_priority_min`, and `sched_get_priority_max` if `is_max`
pub fn priority_limit(call: &SyscallContext<'_>, is_max: bool) -> SyscallResult {
    let range = sched_priorities(call.value(0) as u32).ok_or(Errno::EINVAL)?;
    Ok(if is_max { *range.end() } else { *range.start() }.into())
}

/// `sched_rr_get_interval`
pub fn interval(call: &SyscallContext<'_>) -> SyscallResult {
    let policy = with_task(call, |task| Ok(task.scheduling_policy().policy.into()))?;
    let is_endless = policy as u32 & !SCHED_RESET_ON_FORK == SCHED_FIFO;
    let interval = if is_endless { Timespec::from_nanoseconds(0) } else { INTERVAL };
    call.memory().write(call.address(1), &interval).map(|()| 0)
}

/// Calls `access` with the thread of argument 0.
fn with_task(call: &SyscallContext<'_>, access: impl FnOnce(&Task) -> SyscallResult) -> SyscallResult {
    let id = u32::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?;
    if id == 0 {
        return access(call.task);
    }
    let thread = find_thread(call, id)?;
    access(Task::of(&thread).ok_or(Errno::ESRCH)?)
}
