//! System calls on signals. Actions and masks are recorded and returned; handlers are not called.

use super::{SyscallContext, SyscallResult};
use crate::process::Process;
use crate::process::Termination;
use abi::signal::*;
use abi::{Errno, Syscall};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

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
    let old = {
        let mut actions = call.process().signals.lock();
        let old = actions[signal.number()];
        actions[signal.number()] = new.unwrap_or(old);
        old
    };
    call.memory().write_optional(call.address(2), &old).map(|()| 0)
}

/// `rt_sigprocmask`
pub fn mask(call: &SyscallContext<'_>) -> SyscallResult {
    if call.value(3) != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let old = call.task.signal_mask.load(Ordering::Relaxed);
    if call.value(1) != 0 {
        let set: u64 = call.memory().read(call.address(1))?;
        let new = match call.value(0) {
            SIG_BLOCK => old | set,
            SIG_UNBLOCK => old & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        call.task.signal_mask.store(blockable(new), Ordering::Relaxed);
    }
    call.memory().write_optional(call.address(2), &old).map(|()| 0)
}

/// `sigaltstack`
pub fn alt_stack(call: &SyscallContext<'_>) -> SyscallResult {
    let new = if call.value(0) == 0 { None } else { Some(stack(call.memory().read(call.address(0))?)?) };
    let old = {
        let mut stack = call.task.signal_stack.lock();
        let old = *stack;
        *stack = new.unwrap_or(old);
        old
    };
    call.memory().write_optional(call.address(1), &old).map(|()| 0)
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

/// `kill`, `tkill`, `tgkill`: to the calling process only.
pub fn kill(syscall: Syscall, call: &SyscallContext<'_>) -> SyscallResult {
    let process = call.process();
    let (target, signal) = match syscall {
        Syscall::TgKill if call.int(0) as u32 != process.id() => return Err(Errno::ESRCH),
        Syscall::TgKill => (process.has_thread(call.int(1) as u32), call.int(2)),
        Syscall::TKill => (process.has_thread(call.int(0) as u32), call.int(1)),
        _ => (call.int(0) as u32 == process.id(), call.int(1)),
    };
    if !target {
        return Err(Errno::ESRCH);
    }
    self::signal(signal)?.map_or(Ok(0), |signal| deliver(process, signal))
}

/// Ignores the signal or terminates the process, as its action says. A signal with a handler cannot be
/// delivered (`ENOSYS`), except `SIGABRT`, after which `abort` must not return; nor can one that stops the
/// process.
fn deliver(process: &Arc<Process>, signal: Signal) -> SyscallResult {
    const SIG_DFL: u64 = 0;
    let handler = process.signals.lock()[signal.number()].handler;
    let action = match handler {
        SIG_IGN => DefaultAction::Ignore,
        SIG_DFL => signal.default_action(),
        _ if signal == Signal::SIGABRT => DefaultAction::Terminate,
        _ => return Err(Errno::ENOSYS),
    };
    match action {
        DefaultAction::Ignore => Ok(0),
        DefaultAction::Stop => Err(Errno::ENOSYS),
        DefaultAction::Terminate => {
            process.terminate(Termination::Killed(signal));
            Ok(0)
        }
    }
}
