//! System calls on signals.

use super::children::pidfd;
use super::{SyscallContext, SyscallResult};
use crate::process::signals::{self, Receiver};
use crate::process::{Process, Task, Termination, tree};
use crate::sched;
use abi::signal::*;
use abi::{Errno, Syscall};
use alloc::sync::Arc;
use arch::exception::UserFrame;

/// `rt_sigaction`
pub fn action(call: &SyscallContext<'_>) -> SyscallResult {
    let signal = signal(call.int(0))?.ok_or(Errno::EINVAL)?;
    if call.value(3) != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let new: Option<SigAction> = match call.value(1) {
        0 => None,
        _ if signal.is_unblockable() => return Err(Errno::EINVAL),
        _ => Some(call.memory().read(call.address(1))?),
    };
    let new = new.map(|action| SigAction { mask: blockable(action.mask), ..action });
    let old = match new {
        Some(new) => signals::set_action(call.process(), signal, new),
        None => call.process().signals.lock().actions[signal.number()],
    };
    call.memory().write_optional(call.address(2), &old).map(|()| 0)
}

/// `rt_sigprocmask`
pub fn mask(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(3) != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let old = call.task.signal_mask().bits();
    if call.value(1) != 0 {
        let set: u64 = call.memory().read(call.address(1))?;
        let new = match call.value(0) {
            SIG_BLOCK => old | set,
            SIG_UNBLOCK => old & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        call.task.set_signal_mask(SignalSet::from_bits(new));
    }
    call.memory().write_optional(call.address(2), &old).map(|()| 0)
}

/// `sigaltstack`: `EPERM` for a change while a handler runs on the stack.
pub fn alt_stack(call: &SyscallContext<'_>, frame: &UserFrame) -> SyscallResult {
    let old = *call.task.signal_stack.lock();
    if call.value(0) != 0 {
        let new = call.memory().read(call.address(0))?;
        if old.is_active_at(frame.sp_el0()) {
            return Err(Errno::EPERM);
        }
        *call.task.signal_stack.lock() = stack(new)?;
    }
    call.memory().write_optional(call.address(1), &old.seen_at(frame.sp_el0())).map(|()| 0)
}

/// Returns the alternate stack that the program requests.
///
/// # Errors
/// `EINVAL` for unknown flags, `ENOMEM` if the stack is smaller than [`MINSIGSTKSZ`].
fn stack(new: StackT) -> Result<StackT, Errno> {
    match new.flags & !SS_AUTODISARM {
        SS_DISABLE => Ok(StackT { base: 0, size: 0, gap_flags: 0, ..new }),
        0 | SS_ONSTACK if new.size < MINSIGSTKSZ => Err(Errno::ENOMEM),
        0 | SS_ONSTACK => Ok(StackT { flags: new.flags & SS_AUTODISARM, gap_flags: 0, ..new }),
        _ => Err(Errno::EINVAL),
    }
}

/// Returns the signal with this number; `None` for 0.
///
/// # Errors
/// `EINVAL`.
fn signal(number: i32) -> Result<Option<Signal>, Errno> {
    match u64::try_from(number).map_err(|_| Errno::EINVAL)? {
        0 => Ok(None),
        number => Signal::from_number(number).map(Some).ok_or(Errno::EINVAL),
    }
}

/// `tkill`, `tgkill`
pub fn kill_thread(syscall: Syscall, call: &SyscallContext<'_>) -> SyscallResult {
    let (process, thread, number) = match syscall {
        Syscall::TgKill => (Some(call.int(0)), call.int(1), call.int(2)),
        _ => (None, call.int(0), call.int(1)),
    };
    if process.is_some_and(|id| id <= 0) || thread <= 0 {
        return Err(Errno::EINVAL);
    }
    let receiver = Receiver::Thread(thread as u32);
    let signal = signal(number)?;
    let info = |signal| SigInfo::sent(signal, SI_TKILL, call.process().id());
    match process {
        Some(id) => match tree::with(|tree| tree.find(id as u32))? {
            Some(process) => signals::send(&process, receiver, signal, info).map(|()| 0),
            None => Err(Errno::ESRCH),
        },
        None => {
            let send = |process: &Arc<Process>| signals::send(process, receiver, signal, info);
            let sent = tree::select(|_, _| true)?.iter().map(send).find(|sent| *sent != Err(Errno::ESRCH));
            sent.unwrap_or(Err(Errno::ESRCH)).map(|()| 0)
        }
    }
}

/// `pidfd_send_signal`
pub fn send_to_pidfd(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = call.file(0)?;
    let (id, own, number) = (pidfd(&file)?.id(), call.process().id(), call.int(1));
    let signal = signal(number)?;
    let info: Option<SigInfo> = match call.value(2) {
        0 => None,
        _ => Some(call.memory().read(call.address(2))?),
    };
    if info.is_some_and(|info| info.signal != number) {
        return Err(Errno::EINVAL);
    }
    // As the kernel or `tkill` sends them. In Linux too, only the main thread may send them to its process.
    if info.is_some_and(|info| (info.code >= 0 || info.code == SI_TKILL) && id != call.task.id()) {
        return Err(Errno::EPERM);
    }
    let info = |signal| info.unwrap_or_else(|| SigInfo::sent(signal, SI_USER, own));
    // A zombie receives nothing, successfully.
    match tree::with(|tree| tree.find(id))? {
        Some(process) => signals::send(&process, Receiver::Process, signal, info).map(|()| 0),
        None => Ok(0),
    }
}

/// `kill`: a process, a process group, or all processes.
pub fn kill(call: &SyscallContext<'_>) -> SyscallResult {
    let (own, signal) = (call.process().id(), signal(call.int(1))?);
    let info = |signal| SigInfo::sent(signal, SI_USER, own);
    let send = |process: &Arc<Process>| signals::send(process, Receiver::Process, signal, info);
    let group = match call.int(0) {
        i32::MIN => return Err(Errno::ESRCH),
        id if id > 0 => {
            // A zombie receives nothing, successfully.
            let process = tree::with(|tree| tree.find(id as u32))?;
            return process.as_ref().map_or(Ok(()), send).map(|()| 0);
        }
        0 => Some(tree::with(|tree| tree.group(own))?),
        -1 => None,
        group => Some(group.unsigned_abs()),
    };
    // Not to the caller and to a root, as in Linux to init.
    let root = tree::with(|tree| tree.root_of(own)).unwrap_or(own);
    let receivers = tree::select(|id, of| match group {
        Some(group) => of == group,
        None => id != own && id != root,
    })?;
    let sent = receivers.iter().map(send);
    sent.reduce(Result::or).unwrap_or(Err(Errno::ESRCH)).map(|()| 0)
}

/// Sends a signal to the calling thread, as the effect of its system call.
pub fn raise(call: &SyscallContext<'_>, signal: Signal) {
    let info = |signal| SigInfo::sent(signal, SI_USER, call.process().id());
    // A standard signal that is not pending is always added, and the thread exists.
    let _ = signals::send(call.process(), Receiver::Thread(call.task.id()), Some(signal), info);
}

/// `rt_sigpending`
pub fn pending(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(1) > SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let blocked = signals::pending(call.task).intersection(call.task.signal_mask());
    call.memory().write_prefix(call.address(0), &blocked.bits(), call.length(1)).map(|()| 0)
}

/// `rt_sigsuspend`
pub fn suspend(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(1) != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let mask = SignalSet::from_bits(blockable(call.memory().read(call.address(0))?));
    call.task.suspend_mask(mask);
    let thread = sched::current();
    while !thread.is_signalled() {
        sched::park(None);
    }
    Err(Errno::EINTR)
}

/// `rt_sigtimedwait`
pub fn timed_wait(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(3) != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let awaited = SignalSet::from_bits(blockable(call.memory().read(call.address(0))?));
    let timeout = call.timeout(2)?;
    let deadline = timeout.map(|time| sched::time::now().saturating_add(time));
    call.task.await_signals(awaited);
    let result = wait_for(call.task, awaited, deadline);
    call.task.await_signals(SignalSet::EMPTY);
    let (signal, info) = result?;
    call.memory().write_optional(call.address(1), &info)?;
    Ok(signal.number() as u64)
}

/// Waits for a pending signal in `awaited`, and removes it.
///
/// # Errors
/// `EAGAIN` at the deadline, `EINTR` for another signal.
fn wait_for(task: &Task, awaited: SignalSet, deadline: Option<u64>) -> Result<(Signal, SigInfo), Errno> {
    let thread = sched::current();
    loop {
        if let Some(found) = signals::take_pending(task, awaited.complement()) {
            return Ok(found);
        }
        if thread.is_signalled() {
            return Err(Errno::EINTR);
        }
        if deadline.is_some_and(|deadline| sched::time::now() >= deadline) {
            return Err(Errno::EAGAIN);
        }
        sched::park(deadline);
    }
}

/// `rt_sigreturn`: the result is the x0 that it restores.
pub fn return_from_handler(call: &SyscallContext<'_>, frame: &mut UserFrame) -> SyscallResult {
    if signals::return_from_handler(call.task, frame).is_err() {
        call.process().terminate(Termination::Killed(Signal::SIGSEGV));
    }
    Ok(frame.x()[0])
}
