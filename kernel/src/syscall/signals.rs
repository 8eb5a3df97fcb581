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
    let number = call.length(0);
    if call.value(3) != SIGSET_BYTES || number == 0 || number >= SIGNALS {
        return Err(Errno::EINVAL);
    }
    let new: Option<SigAction> = match call.value(1) {
        0 => None,
        _ if number == Signal::SIGKILL as usize => return Err(Errno::EINVAL),
        _ => Some(call.memory().read(call.address(1))?),
    };
    let old = {
        let mut actions = call.process().signals.lock();
        let old = actions[number];
        actions[number] = new.unwrap_or(old);
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
        call.task.signal_mask.store(new, Ordering::Relaxed);
    }
    call.memory().write_optional(call.address(2), &old).map(|()| 0)
}

/// `sigaltstack`
pub fn alt_stack(call: &SyscallContext<'_>) -> SyscallResult {
    let new: Option<StackT> =
        if call.value(0) == 0 { None } else { Some(call.memory().read(call.address(0))?) };
    let old = {
        let mut stack = call.task.signal_stack.lock();
        let old = *stack;
        *stack = new.unwrap_or(old);
        old
    };
    call.memory().write_optional(call.address(1), &old).map(|()| 0)
}

/// `kill`, `tkill`, `tgkill`: to the calling process only.
pub fn kill(syscall: Syscall, call: &SyscallContext<'_>) -> SyscallResult {
    let process = call.process();
    let (target, signal) = match syscall {
        Syscall::TgKill if call.int(0) as u32 != process.id() => return Err(Errno::ESRCH),
        Syscall::TgKill => (process.has_thread(call.int(1) as u32), call.value(2)),
        Syscall::TKill => (process.has_thread(call.int(0) as u32), call.value(1)),
        _ => (call.int(0) as u32 == process.id(), call.value(1)),
    };
    if !target {
        return Err(Errno::ESRCH);
    }
    deliver(process, signal)
}

/// Terminates the process, which is Linux's default action for the known signals. A signal with a handler
/// cannot be delivered (`ENOSYS`), except `SIGABRT`, after which `abort` must not return.
fn deliver(process: &Arc<Process>, number: u64) -> SyscallResult {
    if number >= SIGNALS as u64 {
        return Err(Errno::EINVAL);
    }
    let handler = process.signals.lock()[number as usize].handler;
    match (Signal::from_number(number), handler) {
        _ if number == 0 => Ok(0),
        (Some(signal @ (Signal::SIGABRT | Signal::SIGKILL)), _) | (Some(signal), 0) => {
            process.terminate(Termination::Killed(signal));
            Ok(0)
        }
        (_, SIG_IGN) => Ok(0),
        _ => Err(Errno::ENOSYS),
    }
}
