//! System calls on threads.

use super::{SyscallContext, SyscallResult};
use crate::process::{self, Task};
use crate::sched;
use abi::Errno;
use abi::futex::*;
use abi::process::CloneFlags;
use addr::UserVa;
use alloc::sync::Arc;
use arch::exception::UserFrame;
use zerocopy::IntoBytes;

/// `clone`: threads only, no processes.
pub fn clone(call: &SyscallContext<'_>, frame: &UserFrame) -> SyscallResult {
    let flags = CloneFlags::from_bits_retain(call.value(0) as u32);
    let needed =
        CloneFlags::VM | CloneFlags::FS | CloneFlags::FILES | CloneFlags::SIGHAND | CloneFlags::THREAD;
    if !flags.contains(needed) {
        log::warn!("clone with flags {:#x}: only threads are supported", call.value(0));
        return Err(Errno::ENOSYS);
    }
    let tls =
        if flags.contains(CloneFlags::SETTLS) { call.address(3) } else { arch::context::thread_pointer() };
    let id = process::next_id();
    let task = Task::new(id, call.process().clone(), call.task.space().clone(), tls);
    task.inherit(call.task);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.set_clear_tid(call.address(4));
    }
    store_tid(call, flags, id)?;
    start(call, task, child_frame(frame, call.address(1)))?;
    Ok(id.into())
}

fn store_tid(call: &SyscallContext<'_>, flags: CloneFlags, id: u32) -> Result<(), Errno> {
    let stores = [(CloneFlags::PARENT_SETTID, 2), (CloneFlags::CHILD_SETTID, 4)];
    for (_, argument) in stores.into_iter().filter(|(flag, _)| flags.contains(*flag)) {
        call.memory().write(call.address(argument), &id)?;
    }
    Ok(())
}

/// Returns the frame of the child, which returns 0 from the same system call on its own stack.
fn child_frame(frame: &UserFrame, stack: UserVa) -> UserFrame {
    let mut child = frame.clone();
    child.x_mut()[0] = 0;
    if stack.raw() != 0 {
        child.set_sp(stack);
    }
    child
}

fn start(call: &SyscallContext<'_>, task: Task, frame: UserFrame) -> Result<(), Errno> {
    // SAFETY: a frame of a program, which this `enter` takes.
    let thread = unsafe { sched::new_user_thread(Arc::new(task), frame, process::enter_user) };
    let thread = thread.map_err(|_| Errno::EAGAIN)?;
    if !call.process().add_thread(&thread) {
        sched::discard(thread);
        return Err(Errno::EAGAIN);
    }
    sched::make_ready(&thread);
    Ok(())
}

/// `exit`: this thread, and the process with its last thread.
pub fn exit(call: &SyscallContext<'_>) -> SyscallResult {
    call.task.exit(call.value(0) as u8);
    Ok(0)
}

/// `set_tid_address`
pub fn set_tid_address(call: &SyscallContext<'_>) -> SyscallResult {
    call.task.set_clear_tid(call.address(0));
    Ok(call.task.id().into())
}

/// `set_robust_list`
pub fn set_robust_list(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(1) != ROBUST_LIST_HEAD_BYTES {
        return Err(Errno::EINVAL);
    }
    call.task.set_robust_list(call.address(0));
    Ok(0)
}

/// `sched_yield`
pub fn yield_now() -> SyscallResult {
    sched::yield_now();
    Ok(0)
}

/// `sched_getaffinity`: all running CPUs.
pub fn get_affinity(call: &SyscallContext<'_>) -> SyscallResult {
    let mask: u64 = sched::running_cpus();
    let room = call.length(1);
    if room < size_of::<u64>() || !room.is_multiple_of(size_of::<u64>()) {
        return Err(Errno::EINVAL);
    }
    let id = call.int(0) as u32;
    if id != 0 && call.process().cpu_time_of(id).is_none() {
        return Err(Errno::ESRCH);
    }
    call.memory().write_bytes(call.address(2), mask.as_bytes())?;
    Ok(size_of::<u64>() as u64)
}

/// `sched_setaffinity`: a thread runs on all CPUs, so the mask must include them.
pub fn set_affinity(call: &SyscallContext<'_>) -> SyscallResult {
    let id = call.int(0) as u32;
    if id != 0 && call.process().cpu_time_of(id).is_none() {
        return Err(Errno::ESRCH);
    }
    let mask: u64 = call.memory().read_prefix(call.address(2), call.length(1))?;
    let running = sched::running_cpus();
    if mask & running == running { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `futex`
pub fn futex(call: &SyscallContext<'_>) -> SyscallResult {
    let (at, operation, value) = (call.address(0), call.value(1) as u32, call.value(2) as u32);
    let (memory, futexes) = (call.memory(), &call.process().futexes);
    // The counts are of type int. Linux wakes at least one waiter.
    let wakes = |n: u32| usize::try_from(n as i32).unwrap_or(0).max(1);
    let count = |n: u32| usize::try_from(n as i32).map_err(|_| Errno::EINVAL);
    let is_realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    match operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) {
        command if is_realtime && command != FUTEX_WAIT_BITSET => Err(Errno::ENOSYS),
        FUTEX_WAIT => {
            let deadline = call.timeout(3)?.map(|wait| sched::time::now().saturating_add(wait));
            futexes.wait(memory, at, value, FUTEX_BITSET_MATCH_ANY, deadline).map(|()| 0)
        }
        // An absolute time.
        FUTEX_WAIT_BITSET => {
            let to_monotonic = |at| if is_realtime { sched::time::from_realtime(at) } else { at };
            let deadline = call.timeout(3)?.map(to_monotonic);
            futexes.wait(memory, at, value, call.value(5) as u32, deadline).map(|()| 0)
        }
        FUTEX_WAKE => futexes.wake(at, wakes(value), FUTEX_BITSET_MATCH_ANY).map(|count| count as u64),
        FUTEX_WAKE_BITSET => futexes.wake(at, wakes(value), call.value(5) as u32).map(|count| count as u64),
        command @ (FUTEX_REQUEUE | FUTEX_CMP_REQUEUE) => {
            let expected = (command == FUTEX_CMP_REQUEUE).then_some(call.value(5) as u32);
            let (wake, moved) = ((at, count(value)?), (call.address(4), count(call.value(3) as u32)?));
            futexes.requeue(memory, wake, moved, expected).map(|count| count as u64)
        }
        _ => Err(Errno::ENOSYS),
    }
}
