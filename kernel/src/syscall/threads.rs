//! System calls on threads.

use super::{SyscallContext, SyscallResult};
use crate::process::{self, CloneRequest, Task, tree};
use crate::sched::{self, Nanoseconds, Thread};
use abi::Errno;
use abi::futex::*;
use abi::process::{CSIGNAL, CloneArgs, CloneFlags};
use abi::signal::Signal;
use addr::{Address, PAGE_SIZE, UserVa};
use alloc::sync::Arc;
use arch::exception::UserFrame;
use zerocopy::IntoBytes;

pub fn clone(call: &SyscallContext<'_>, frame: &UserFrame) -> SyscallResult {
    let flags = CloneFlags::from_bits_retain(call.value(0) & u64::from(u32::MAX) & !CSIGNAL);
    // Both are stored at the same address.
    if flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    create(
        call,
        frame,
        &CloneRequest {
            flags,
            exit_signal: exit_signal(call.value(0) & CSIGNAL)?,
            stack: call.address(1),
            pidfd: call.address(2),
            parent_tid: call.address(2),
            tls: call.address(3),
            child_tid: call.address(4),
        },
    )
}

pub fn clone3(call: &SyscallContext<'_>, frame: &UserFrame) -> SyscallResult {
    let size = call.length(1);
    if size < size_of::<CloneArgs>() {
        return Err(Errno::EINVAL);
    }
    if size > PAGE_SIZE as usize {
        return Err(Errno::E2BIG);
    }
    let arguments: CloneArgs = call.memory().read(call.address(0))?;
    // Fields of later versions must be 0.
    let mut at = size_of::<CloneArgs>();
    while at < size {
        if call.memory().read::<u8>(call.address(0) + at as u64)? != 0 {
            return Err(Errno::E2BIG);
        }
        at += 1;
    }
    let flags = CloneFlags::from_bits_retain(arguments.flags);
    let stack = arguments.stack.checked_add(arguments.stack_size).ok_or(Errno::EINVAL)?;
    let has_stack = arguments.stack != 0;
    if arguments.flags & CSIGNAL != 0 || has_stack != (arguments.stack_size != 0) {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && arguments.exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    create(
        call,
        frame,
        &CloneRequest {
            flags,
            exit_signal: exit_signal(arguments.exit_signal)?,
            stack: UserVa::new(stack),
            pidfd: UserVa::new(arguments.pidfd),
            parent_tid: UserVa::new(arguments.parent_tid),
            tls: UserVa::new(arguments.tls),
            child_tid: UserVa::new(arguments.child_tid),
        },
    )
}

/// Returns the signal that the exit of a child sends.
///
/// # Errors
/// `EINVAL`.
fn exit_signal(number: u64) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        _ => Signal::from_number(number).map(Some).ok_or(Errno::EINVAL),
    }
}

/// Creates a thread or a process.
///
/// # Errors
/// `EINVAL` for flags that are unknown or that do not fit, `EAGAIN`, `ENOMEM`.
fn create(call: &SyscallContext<'_>, frame: &UserFrame, request: &CloneRequest) -> SyscallResult {
    let thread =
        CloneFlags::VM | CloneFlags::FS | CloneFlags::FILES | CloneFlags::SIGHAND | CloneFlags::THREAD;
    let common = CloneFlags::SETTLS
        | CloneFlags::PARENT_SETTID
        | CloneFlags::CHILD_SETTID
        | CloneFlags::CHILD_CLEARTID
        | CloneFlags::SYSVSEM
        | CloneFlags::DETACHED
        | CloneFlags::UNTRACED
        | CloneFlags::IO;
    let flags = request.flags;
    if flags.contains(thread) && (thread | common).contains(flags) {
        return create_thread(call, frame, request);
    }
    // Files, the current directory and signal actions are shared by threads only.
    let process = common | CloneFlags::VM | CloneFlags::VFORK | CloneFlags::CLEAR_SIGHAND | CloneFlags::PIDFD;
    if !process.contains(flags) || flags.contains(CloneFlags::PIDFD | CloneFlags::DETACHED) {
        log::warn!("clone with flags {:#x} is not supported", flags.bits());
        return Err(Errno::EINVAL);
    }
    process::fork(call.task, frame, request).map(u64::from)
}

fn create_thread(call: &SyscallContext<'_>, frame: &UserFrame, request: &CloneRequest) -> SyscallResult {
    let (id, flags) = (process::next_id(), request.flags);
    let process = call.process();
    let space = (call.task.space().clone(), call.task.futexes().clone());
    let task = Task::new(id, process.clone(), space, request.thread_pointer());
    task.inherit(call.task);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.set_clear_tid(request.child_tid);
    }
    let stores =
        [(CloneFlags::PARENT_SETTID, request.parent_tid), (CloneFlags::CHILD_SETTID, request.child_tid)];
    for (_, at) in stores.into_iter().filter(|(flag, _)| flags.contains(*flag)) {
        call.memory().write(at, &id)?;
    }
    let thread = process::new_thread(task, request.frame(frame))?;
    if !process.add_thread(&thread) {
        sched::discard(thread);
        return Err(Errno::EAGAIN);
    }
    sched::make_ready(&thread);
    Ok(id.into())
}

/// `exit`: this thread/// `exit`: this thread, and the process with its last thread.
pub fn exit(call: &SyscallContext<'_>) -> SyscallResult {
    call.task.exit(call.value(0) as u8);
    Ok(0)
}

pub fn set_tid_address(call: &SyscallContext<'_>) -> SyscallResult {
    call.task.set_clear_tid(call.address(0));
    Ok(call.task.id().into())
}

pub fn set_robust_list(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(1) != ROBUST_LIST_HEAD_BYTES {
        return Err(Errno::EINVAL);
    }
    call.task.set_robust_list(call.address(0));
    Ok(0)
}

/// `get_robust_list`
pub fn get_robust_list(call: &SyscallContext<'_>) -> SyscallResult {
    let thread = find_thread(call, call.int(0) as u32)?;
    let head = Task::of(&thread).ok_or(Errno::ESRCH)?.robust_list();
    call.memory().write(call.address(2), &ROBUST_LIST_HEAD_BYTES)?;
    call.memory().write(call.address(1), &head.raw()).map(|()| 0)
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
    check_thread(call)?;
    call.memory().write_bytes(call.address(2), mask.as_bytes())?;
    Ok(size_of::<u64>() as u64)
}

/// `sched_setaffinity`: a thread runs on all CPUs, so the mask must include them.
pub fn set_affinity(call: &SyscallContext<'_>) -> SyscallResult {
    check_thread(call)?;
    let mask: u64 = call.memory().read_prefix(call.address(2), call.length(1))?;
    let running = sched::running_cpus();
    if mask & running == running { Ok(0) } else { Err(Errno::EINVAL) }
}

/// # Errors
/// `ESRCH` if argument 0 is neither 0 nor the id of a thread of any process.
fn check_thread(call: &SyscallContext<'_>) -> Result<(), Errno> {
    match call.int(0) {
        0 => Ok(()),
        id => find_thread(call, id as u32).map(|_| ()),
    }
}

/// Returns the thread with this id, of any process; the caller for 0.
///
/// # Errors
/// `ESRCH`, `ENOMEM`.
pub(super) fn find_thread(call: &SyscallContext<'_>, id: u32) -> Result<Arc<Thread>, Errno> {
    let id = if id == 0 { call.task.id() } else { id };
    if let Some(thread) = call.process().thread(id) {
        return Ok(thread);
    }
    tree::select(|_, _| true)?.iter().find_map(|process| process.thread(id)).ok_or(Errno::ESRCH)
}

pub fn futex(call: &SyscallContext<'_>) -> SyscallResult {
    match call.value(1) as u32 {
        operation if operation & (FUTEX_ROBUST_UNLOCK | FUTEX_ROBUST_LIST32) == 0 => operate(call, operation),
        operation => unlock_robust(call, operation),
    }
}

/// Unlocks the word and clears the pending entry of the robust list, whose address is argument 4, before the
/// wake of `operation`. A thread that exits in between would leave a lock without an owner otherwise.
///
/// # Errors
/// `ENOSYS` for an operation that does not unlock; those of the operation.
fn unlock_robust(call: &SyscallContext<'_>, operation: u32) -> SyscallResult {
    let base = operation & !(FUTEX_ROBUST_UNLOCK | FUTEX_ROBUST_LIST32);
    let (memory, at, pending) = (call.memory(), call.address(0), call.address(4));
    let clear = || match operation & FUTEX_ROBUST_LIST32 {
        0 => memory.write(pending, &0u64),
        _ => memory.write(pending, &0u32),
    };
    match base & !FUTEX_PRIVATE_FLAG {
        _ if operation & FUTEX_ROBUST_UNLOCK == 0 => Err(Errno::ENOSYS),
        FUTEX_WAKE | FUTEX_WAKE_BITSET => {
            if !at.is_aligned(4) {
                return Err(Errno::EINVAL);
            }
            let mut word = memory.load_u32(at)?;
            loop {
                match memory.compare_exchange_u32(at, word, 0)? {
                    old if old == word => break,
                    other => word = other,
                }
            }
            clear()?;
            operate(call, base)
        }
        FUTEX_UNLOCK_PI => {
            let unlocked = operate(call, base)?;
            clear().map(|()| unlocked)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn operate(call: &SyscallContext<'_>, operation: u32) -> SyscallResult {
    let (at, value) = (call.address(0), call.value(2) as u32);
    let (memory, futexes) = (call.memory(), call.task.futexes());
    // The counts are of type int. Linux wakes at least one waiter.
    let wakes = |n: u32| usize::try_from(n as i32).unwrap_or(0).max(1);
    let count = |n: u32| usize::try_from(n as i32).map_err(|_| Errno::EINVAL);
    let find = |id: u32| if id == 0 { None } else { find_thread(call, id).ok() };
    let is_realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    match operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) {
        command
            if is_realtime
                && !matches!(command, FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2) =>
        {
            Err(Errno::ENOSYS)
        }
        FUTEX_WAIT => {
            let deadline = call.timeout(3)?.map(|wait| sched::time::now().saturating_add(wait));
            futexes.wait(memory, at, value, FUTEX_BITSET_MATCH_ANY, deadline).map(|()| 0)
        }
        // An absolute time.
        FUTEX_WAIT_BITSET => {
            let deadline = deadline(call, is_realtime)?;
            futexes.wait(memory, at, value, call.value(5) as u32, deadline).map(|()| 0)
        }
        FUTEX_WAKE => futexes.wake(at, wakes(value), FUTEX_BITSET_MATCH_ANY).map(|count| count as u64),
        FUTEX_WAKE_BITSET => futexes.wake(at, wakes(value), call.value(5) as u32).map(|count| count as u64),
        command @ (FUTEX_REQUEUE | FUTEX_CMP_REQUEUE) => {
            let expected = (command == FUTEX_CMP_REQUEUE).then_some(call.value(5) as u32);
            let (wake, moved) = ((at, count(value)?), (call.address(4), count(call.value(3) as u32)?));
            futexes.requeue(memory, wake, moved, expected).map(|count| count as u64)
        }
        command @ (FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_TRYLOCK_PI) => {
            let is_try = command == FUTEX_TRYLOCK_PI;
            let deadline =
                if is_try { None } else { deadline(call, is_realtime || command == FUTEX_LOCK_PI)? };
            futexes.lock_pi(memory, at, call.task.id(), (deadline, is_try), &find).map(|()| 0)
        }
        FUTEX_UNLOCK_PI => futexes.unlock_pi(memory, at, call.task.id()).map(|()| 0),
        FUTEX_WAIT_REQUEUE_PI => {
            let deadline = deadline(call, is_realtime)?;
            futexes.wait_requeue_pi(memory, (at, value), call.address(4), deadline).map(|()| 0)
        }
        FUTEX_CMP_REQUEUE_PI => {
            let moved = count(call.value(3) as u32)?;
            if count(value)? != 1 {
                return Err(Errno::EINVAL);
            }
            let from = (at, call.value(5) as u32);
            futexes.requeue_pi(memory, from, (call.address(4), moved), &find).map(|count| count as u64)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Reads the absolute timeout of a futex operation, on the real-time or the monotonic clock.
fn deadline(call: &SyscallContext<'_>, is_realtime: bool) -> Result<Option<Nanoseconds>, Errno> {
    let to_monotonic = |at| if is_realtime { sched::time::from_realtime(at) } else { at };
    Ok(call.timeout(3)?.map(to_monotonic))
}

/// Whether a futex operation takes a lock with priority inheritance.
pub fn is_lock(call: &SyscallContext<'_>) -> bool {
    let command = call.value(1) as u32 & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    matches!(command, FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI)
}
