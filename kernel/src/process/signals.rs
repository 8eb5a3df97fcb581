//! Signals: sending them, and calling handlers before the return to user space.

use super::process::{Process, Termination};
use super::signalfd;
use super::task::Task;
use super::tree;
use super::vdso;
use crate::fs::console::Foreground;
use crate::sched::{self, Thread};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::signal::*;
use addr::{Address, UserVa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::context::FpState;
use arch::exception::UserFrame;
use program::{Delivery, JobChange, PendingSignals};
use zerocopy::FromZeros;

/// The actions of a process, and the signals that were sent to it.
pub struct ProcessSignals {
    /// By signal number. On the heap: too large for the stack frames that a process passes.
    pub actions: Vec<SigAction>,
    pub pending: PendingSignals,
}

const DEFAULT_ACTION: SigAction = SigAction { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 };

impl ProcessSignals {
    /// Default actions, and no pending signals.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let mut actions = Vec::new();
        actions.try_reserve_exact(SIGNALS).map_err(|_| Errno::ENOMEM)?;
        actions.resize(SIGNALS, DEFAULT_ACTION);
        Ok(Self { actions, pending: PendingSignals::default() })
    }

    /// Replaces handlers by the default action, as `execve` does. Ignored signals stay ignored.
    pub fn reset_handlers(&mut self) {
        let handled = self.actions.iter_mut().filter(|action| action.handler != SIG_IGN);
        handled.for_each(|action| *action = DEFAULT_ACTION);
    }
}

/// The receiver of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// Any thread of the process that does not block the signal.
    Process,
    /// As `Process`; the running thread if it is one of these.
    RunningThread,
    /// The thread with this id.
    Thread(u32),
}

/// A system call that failed with `EINTR`, and that can be executed again.
#[derive(Clone, Copy)]
pub struct Restart {
    /// The first argument, whose register has the result.
    pub argument: u64,
    pub after_handler: AfterHandler,
}

/// Whether a system call is executed again after a handler. If no handler is called, as when another thread
/// took the signal, it always is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterHandler {
    Never,
    /// After one with `SA_RESTART`.
    OnRequest,
    Always,
}

/// Sends `signal` to `receiver`; `None` checks only whether it exists.
///
/// # Errors
/// `ESRCH` without such a thread, `EAGAIN` if too many real-time signals are pending.
pub fn send(
    process: &Process,
    receiver: Receiver,
    signal: Option<Signal>,
    info: impl FnOnce(Signal) -> SigInfo,
) -> Result<(), Errno> {
    let running = if receiver == Receiver::RunningThread { sched::try_current() } else { None };
    let effect = process.with_threads(|threads| -> Result<Effect, Errno> {
        let target = match receiver {
            Receiver::Process | Receiver::RunningThread => None,
            Receiver::Thread(id) => {
                let thread =
                    threads.iter().find(|thread| Task::of(thread).is_some_and(|task| task.id() == id));
                Some(thread.ok_or(Errno::ESRCH)?)
            }
        };
        let Some(signal) = signal else { return Ok(Effect::None) };
        let candidates = target.map_or(threads, core::slice::from_ref);
        let find = |accepts: fn(&Task, Signal) -> bool| {
            let mut accepting =
                candidates.iter().filter(|thread| Task::of(thread).is_some_and(|task| accepts(task, signal)));
            let is_running =
                |thread: &&Arc<Thread>| running.as_ref().is_some_and(|own| Arc::ptr_eq(own, thread));
            accepting.clone().find(is_running).or_else(|| accepting.next())
        };
        // Masks change under this lock: a thread that unblocks the signal either is found here, or finds it
        // pending afterwards.
        let mut signals = process.signals.lock();
        let discarded = match signal {
            Signal::SIGCONT => STOP_SIGNALS,
            _ if STOP_SIGNALS.contains(signal) => SignalSet::EMPTY.with(Signal::SIGCONT),
            _ => SignalSet::EMPTY,
        };
        if !discarded.is_empty() {
            signals.pending.discard(discarded);
            let tasks = threads.iter().filter_map(|thread| Task::of(thread));
            tasks.for_each(|task| task.pending.lock().discard(discarded));
        }
        // Whatever its action, and also if it is blocked.
        let continues = if signal == Signal::SIGCONT { Effect::Continue } else { Effect::None };
        let is_held = process.is_stopped() && !matches!(signal, Signal::SIGCONT | Signal::SIGKILL);
        let handling = find(|task, signal| !task.signal_mask().contains(signal));
        if handling.is_some() {
            // Checked now as well as at the delivery: an ignored signal must end no wait, and a fatal one
            // ends those that other signals do not.
            let mut action = signals.actions[signal.number()];
            match program::deliver(signal, &mut action, SignalSet::EMPTY) {
                Delivery::Ignore => return Ok(continues),
                // Not that of a root, which no process could continue.
                Delivery::Stop if process.parent() == 0 => return Ok(Effect::None),
                Delivery::Stop if !is_held => return Ok(Effect::Stop),
                Delivery::Terminate if !is_held => return Ok(Effect::Terminate),
                Delivery::Terminate | Delivery::Stop | Delivery::Call { .. } => {}
            }
        }
        match target.and_then(|thread| Task::of(thread)) {
            Some(task) => task.pending.lock().add(signal, info(signal))?,
            None => signals.pending.add(signal, info(signal))?,
        };
        let waiting = || find(|task, signal| task.awaited_signals().contains(signal));
        waiting().or(handling).into_iter().filter(|_| !is_held).for_each(sched::notify);
        Ok(continues)
    })?;
    signalfd::notify();
    match (effect, signal) {
        (Effect::Terminate, Some(signal)) => _ = process.terminate(Termination::Killed(signal)),
        (Effect::Stop, Some(signal)) => tree::change(process, JobChange::Stopped(signal)),
        (Effect::Continue, _) => tree::change(process, JobChange::Continued),
        _ => {}
    }
    Ok(())
}

/// The effect of a signal on its process as a whole.
enum Effect {
    None,
    Terminate,
    Stop,
    Continue,
}

/// The signals that stop a process by default.
const STOP_SIGNALS: SignalSet =
    SignalSet::EMPTY.with(Signal::SIGSTOP).with(Signal::SIGTSTP).with(Signal::SIGTTIN).with(Signal::SIGTTOU);

impl Foreground for Process {
    fn id(&self) -> u32 {
        Process::id(self)
    }

    fn signal(&self, signal: Signal) {
        // An error concerns a signal that would stop the process, or one that is pending already.
        let _ = send(self, Receiver::Process, Some(signal), |signal| SigInfo::sent(signal, SI_KERNEL, 0));
    }
}

/// Sets the action of `signal`, and returns the old one. Pending signals that are ignored now are discarded.
pub fn set_action(process: &Process, signal: Signal, action: SigAction) -> SigAction {
    let is_ignored =
        |mut action| matches!(program::deliver(signal, &mut action, SignalSet::EMPTY), Delivery::Ignore);
    let ignores = is_ignored(action);
    let old = process.with_threads(|threads| {
        let mut signals = process.signals.lock();
        if ignores {
            let ignored = SignalSet::EMPTY.with(signal);
            signals.pending.discard(ignored);
            let tasks = threads.iter().filter_map(|thread| Task::of(thread));
            tasks.for_each(|task| task.pending.lock().discard(ignored));
        }
        core::mem::replace(&mut signals.actions[signal.number()], action)
    });
    if is_ignored(old) && !ignores {
        process.timers.lock().signal_not_ignored(process, signal);
    }
    old
}

/// Removes and returns the next pending signal of the running thread or its process that is not in `mask`.
pub fn take_pending(task: &Task, mask: SignalSet) -> Option<(Signal, SigInfo)> {
    let of_thread = task.pending.lock().take(mask);
    let (signal, mut info) = of_thread.or_else(|| task.process().signals.lock().pending.take(mask))?;
    task.process().timers.lock().signal_taken(task.process(), signal, &mut info);
    Some((signal, info))
}

/// Makes the running thread handle `signal`, which its last instruction raised. Returns `false` if the
/// process is to be terminated instead.
pub fn raise(task: &Task, signal: Signal, info: SigInfo) -> bool {
    let mut action = task.process().signals.lock().actions[signal.number()];
    let handled =
        matches!(program::deliver_forced(signal, &mut action, task.signal_mask()), Delivery::Call { .. });
    // A standard signal that is not pending is always added.
    if handled && task.pending.lock().add(signal, info).is_ok() {
        sched::check_signals();
    }
    handled
}

/// Returns the signals that are pending for the running thread and its process.
pub fn pending(task: &Task) -> SignalSet {
    task.pending.lock().set().union(task.process().signals.lock().pending.set())
}

/// Returns the signals that are pending for a thread and for its process, those that the thread blocks, and
/// those that the process ignores and handles.
pub fn sets(task: &Task) -> [SignalSet; 5] {
    let signals = task.process().signals.lock();
    let with = |selects: fn(u64) -> bool| {
        let all = (1..SIGNALS as u64).filter_map(Signal::from_number);
        all.filter(|signal| selects(signals.actions[signal.number()].handler))
            .fold(SignalSet::from_bits(0), SignalSet::with)
    };
    let own = task.pending.lock().set();
    let ignored = with(|handler| handler == SIG_IGN);
    let handled = with(|handler| handler != SIG_IGN && handler != SIG_DFL);
    [own, signals.pending.set(), task.signal_mask(), ignored, handled]
}

/// Delivers the pending signals of the running thread: changes `frame` so that the program continues in the
/// last handler, and in the others after it. `restart` is the system call that the signals interrupted.
pub fn deliver_all(task: &Task, frame: &mut UserFrame, mut restart: Option<Restart>) {
    let process = task.process();
    loop {
        let mask = task.signal_mask();
        let Some((signal, info)) = take_pending(task, mask) else { break };
        let delivery = program::deliver(signal, &mut process.signals.lock().actions[signal.number()], mask);
        match delivery {
            Delivery::Ignore => {}
            // It was blocked when it was sent. The thread stops before it returns.
            Delivery::Stop if process.parent() == 0 => {}
            Delivery::Stop => tree::change(process, JobChange::Stopped(signal)),
            Delivery::Terminate => {
                process.terminate(Termination::Killed(signal));
                return;
            }
            Delivery::Call { action, mask: during } => {
                let restarts = action.flags & SA_RESTART != 0;
                let interrupted = restart.take().filter(|call| match call.after_handler {
                    AfterHandler::Never => false,
                    AfterHandler::OnRequest => restarts,
                    AfterHandler::Always => true,
                });
                interrupted.into_iter().for_each(|call| restart_call(frame, call));
                let after = task.take_suspended_mask().unwrap_or(mask);
                if call_handler(task, frame, signal, info, &action, after).is_err() {
                    log::warn!("program {}: no stack for the handler of {signal}", process.id());
                    process.terminate(Termination::Killed(Signal::SIGSEGV));
                    return;
                }
                task.set_signal_mask(during);
            }
        }
    }
    restart.into_iter().for_each(|call| restart_call(frame, call));
    if let Some(mask) = task.take_suspended_mask() {
        task.set_signal_mask(mask);
    }
}

/// Makes the program execute its last SVC again.
fn restart_call(frame: &mut UserFrame, call: Restart) {
    frame.x_mut()[0] = call.argument;
    frame.set_pc(frame.elr() - 4);
}

/// Stores the context in `frame` on the program's stack, with `mask` to be restored, and makes it continue in
/// the handler.
///
/// # Errors
/// `EFAULT` if there is no such stack.
fn call_handler(
    task: &Task,
    frame: &mut UserFrame,
    signal: Signal,
    info: SigInfo,
    action: &SigAction,
    mask: SignalSet,
) -> Result<(), Errno> {
    let stack = *task.signal_stack.lock();
    let sp = frame.sp_el0();
    let switches = action.flags & SA_ONSTACK != 0 && stack.flags & SS_DISABLE == 0 && !stack.is_active_at(sp);
    let top = if switches { stack.base.checked_add(stack.size).ok_or(Errno::EFAULT)? } else { sp };
    // A frame record above the frame, for backtraces.
    let record = top.checked_sub(16).ok_or(Errno::EFAULT)? & !15;
    // Aligned too.
    const { assert!(SIGNAL_FRAME_BYTES.is_multiple_of(16)) };
    let at = record.checked_sub(SIGNAL_FRAME_BYTES).ok_or(Errno::EFAULT)?;
    if (switches || stack.contains(sp)) && !stack.contains(at) {
        return Err(Errno::EFAULT);
    }
    let memory = task.memory();
    memory.write(UserVa::new(record), &[frame.x()[29], frame.x()[30]])?;
    write_frame(memory, UserVa::new(at), frame, info, stack.seen_at(sp), mask)?;
    if stack.flags & SS_AUTODISARM != 0 {
        *task.signal_stack.lock() = StackT::default();
    }
    let sigreturn = vdso::ADDRESS.raw() + vdso::vdso().sigreturn;
    let context = at + core::mem::offset_of!(SignalFrame, context) as u64;
    let restorer = if action.flags & SA_RESTORER != 0 { action.restorer } else { sigreturn };
    let x = frame.x_mut();
    x[0] = signal.number() as u64;
    (x[1], x[2]) = (at, context);
    (x[29], x[30]) = (record, restorer);
    frame.set_sp(UserVa::new(at));
    frame.set_pc(action.handler);
    Ok(())
}

fn write_frame(
    memory: UserMemory<'_>,
    at: UserVa,
    frame: &UserFrame,
    info: SigInfo,
    stack: StackT,
    mask: SignalSet,
) -> Result<(), Errno> {
    let mut fp = FpState::new();
    fp.save();
    let (q, fpcr, fpsr) = fp.registers();
    let context = UContext {
        stack,
        mask: mask.bits(),
        fault_address: frame.fault_address().unwrap_or(0),
        x: *frame.x(),
        sp: frame.sp_el0(),
        pc: frame.elr(),
        pstate: frame.spsr(),
        fp: FpRecord {
            magic: FP_MAGIC,
            size: size_of::<FpRecord>() as u32,
            fpsr,
            fpcr,
            q: q.map(|q| [q as u64, (q >> 64) as u64]),
        },
        ..UContext::new_zeroed()
    };
    memory.write(at, &SignalFrame { info, context })
}

/// Restores the context that [`call_handler`] stored at the stack pointer (`rt_sigreturn`).
///
/// # Errors
/// `EFAULT` if there is none.
pub fn return_from_handler(task: &Task, frame: &mut UserFrame) -> Result<(), Errno> {
    let at = UserVa::new(frame.sp_el0());
    if !at.is_aligned(16) {
        return Err(Errno::EFAULT);
    }
    let SignalFrame { context, .. } = task.memory().read(at)?;
    let fp = &context.fp;
    if fp.magic != FP_MAGIC || fp.size as usize != size_of::<FpRecord>() {
        return Err(Errno::EFAULT);
    }
    let q = fp.q.map(|[low, high]| u128::from(high) << 64 | u128::from(low));
    FpState::from_registers(q, fp.fpcr, fp.fpsr).restore();
    *frame.x_mut() = context.x;
    frame.set_sp(UserVa::new(context.sp));
    frame.set_pc(context.pc);
    frame.set_flags(context.pstate);
    if context.stack.flags & SS_AUTODISARM != 0 {
        *task.signal_stack.lock() = StackT { flags: SS_AUTODISARM, ..context.stack };
    }
    task.set_signal_mask(SignalSet::from_bits(context.mask));
    Ok(())
}
