//! The return to user space: preemption, thread exit, and the first entry of a new thread.

use super::signals::{self, Restart};
use super::task::Task;
use crate::sched::{self, Thread};
use addr::KernelVa;
use alloc::sync::Arc;
use arch::exception::UserFrame;

/// The last step before user space, after every exception: preempts the running thread if its time slice is
/// used up, delivers signals, and terminates the thread if it is interrupted. Interrupts are masked, no lock
/// is held. `restart` is passed to [`signals::deliver_all`].
#[inline]
pub fn before_return(frame: &mut UserFrame, restart: Option<Restart>) {
    sched::preempt();
    if sched::has_requests() {
        serve_requests(frame, restart);
    }
}

/// Sends the signals of timers of CPU time, waits while its process is stopped, delivers the signals of the
/// running thread, and terminates it if it is interrupted.
#[cold]
fn serve_requests(frame: &mut UserFrame, mut restart: Option<Restart>) {
    let thread = sched::current();
    if let Some(task) = Task::of(&thread).filter(|_| thread.is_timed() && !thread.is_interrupted()) {
        task.process().timers.lock().expire_cpu_times(task.process());
    }
    while !thread.is_interrupted() {
        let Some(task) = Task::of(&thread) else { break };
        let is_stopped = thread.is_stopped();
        if !is_stopped && !thread.take_signalled() {
            break;
        }
        // SAFETY: as in `exit_thread`.
        unsafe { arch::cpu::unmask_irqs() };
        match is_stopped {
            true => task.process().wait_while_stopped(),
            false => signals::deliver_all(task, frame, restart.take()),
        }
        core::mem::forget(arch::cpu::mask_irqs());
    }
    if thread.is_interrupted() {
        exit_thread(thread);
    }
}

/// Enters user space for the first time, with the registers in `frame`. `stack_top` is that of the running
/// thread's kernel stack. Interrupts are masked, no lock is held.
///
/// # Safety
/// Except for `frame`, nothing on the stack below `stack_top` may be live.
pub unsafe fn enter_user(mut frame: UserFrame, stack_top: KernelVa) -> ! {
    before_return(&mut frame, None);
    arch::irqsoff::end();
    // SAFETY: the stack is guaranteed by the caller, and `frame` is read first; `Task::restore`
    // installed the process's tables and restored its FP state when this thread was switched to.
    unsafe { arch::context::enter_user(&frame, stack_top) }
}

/// Terminates the running thread.
fn exit_thread(thread: Arc<Thread>) -> ! {
    // SAFETY: interrupts were masked by the exception entry or a forgotten guard; no lock is held.
    unsafe { arch::cpu::unmask_irqs() };
    detach_from_process(&thread);
    // Nothing is dropped after `exit`.
    drop(thread);
    sched::exit()
}

fn detach_from_process(thread: &Arc<Thread>) {
    let Some(task) = Task::of(thread) else { return };
    task.release_robust_futexes();
    task.clear_child_tid();
    // Before the thread leaves the list: the last one frees the tables, and no CPU may walk them then.
    arch::mmu::uninstall_user();
    task.process().remove_thread(thread, task.exit_status());
    task.start_successor();
}
