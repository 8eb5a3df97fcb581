//! Delivery of signals: the receiver, the frame on the stack of the program, and the return from a handler.

use super::{BASE, boot, space_with_pages};
use abi::Errno;
use abi::signal::*;
use addr::{PAGE_SIZE, UserVa};
use arch::exception::UserFrame;
use kernel::process::futex::Futexes;
use kernel::process::signals::{self, AfterHandler, Receiver, Restart};
use kernel::process::{Process, Task, Termination, new_thread, next_id};
use kernel::sched::{Thread, UserThread};
use kernel::vm::access::UserMemory;
use std::sync::Arc;
use zerocopy::FromZeros;

const PAGES: u64 = 16;
/// The end of the stack of the program, misaligned.
const STACK: UserVa = UserVa::new(BASE.raw() + PAGES * PAGE_SIZE - 8);
const PC: u64 = 0x1_2340;
const HANDLER: u64 = 0x1_5000;
const RESTORER: u64 = 0x1_6000;
/// The alternate stack, in the lower pages.
const ALTERNATE: StackT = StackT { base: BASE.raw(), flags: 0, gap_flags: 0, size: 5 * PAGE_SIZE };

/// A process with one thread, which does not run.
struct SignalledProgram {
    process: Arc<Process>,
    thread: Arc<Thread>,
    frame: UserFrame,
}

impl SignalledProgram {
    fn new() -> Self {
        let process = Process::new(space_with_pages(PAGES)).unwrap();
        let mut frame = UserFrame::program(UserVa::new(PC), STACK);
        for (n, register) in frame.x_mut().iter_mut().enumerate() {
            *register = 100 + n as u64;
        }
        let thread = new_thread(task(&process), frame.clone()).unwrap();
        assert!(process.add_thread(&thread));
        Self { process, thread, frame }
    }

    fn task(&self) -> &Task {
        Task::of(&self.thread).unwrap()
    }

    fn memory(&self) -> UserMemory<'_> {
        self.task().memory()
    }

    fn handle(&self, signal: Signal, flags: u64) {
        let flags = flags | SA_RESTORER;
        let action = SigAction { handler: HANDLER, flags, restorer: RESTORER, mask: 0 };
        signals::set_action(&self.process, signal, action);
    }

    fn send(&self, receiver: Receiver, signal: Signal) -> Result<(), Errno> {
        signals::send(&self.process, receiver, Some(signal), |signal| SigInfo::sent(signal, SI_USER, 7))
    }

    /// Sends `signal` to the thread and delivers it. Returns the stored frame.
    fn deliver(&mut self, signal: Signal) -> SignalFrame {
        self.send(Receiver::Thread(self.task().id()), signal).unwrap();
        let task = Task::of(&self.thread).unwrap();
        signals::deliver_all(task, &mut self.frame, None);
        assert_eq!(self.frame.elr(), HANDLER);
        self.memory().read(UserVa::new(self.frame.sp_el0())).unwrap()
    }

    fn sigreturn(&mut self) -> Result<(), Errno> {
        signals::return_from_handler(Task::of(&self.thread).unwrap(), &mut self.frame)
    }
}

fn task(process: &Arc<Process>) -> Task {
    let id = next_id();
    let space = (process.space().unwrap(), Futexes::new().unwrap());
    Task::new(id, process.clone(), space, UserVa::new(0))
}

#[test]
fn handler_runs_on_an_aligned_frame_and_returns_to_the_interrupted_context() {
    let _kernel = boot();
    for below in [0, 8, 16, 24] {
        let mut program = SignalledProgram::new();
        program.frame.set_sp(UserVa::new(STACK.raw() - below));
        program.handle(Signal::SIGUSR1, SA_SIGINFO);
        let before = program.frame.clone();
        let stored = program.deliver(Signal::SIGUSR1);
        let (sp, x) = (program.frame.sp_el0(), *program.frame.x());
        assert_eq!((sp % 16, x[29] % 16), (0, 0), "AAPCS64, 6.4.5.1");
        assert!(x[29] >= sp + SIGNAL_FRAME_BYTES && x[29] + 16 <= before.sp_el0(), "overlap");
        let context = sp + core::mem::offset_of!(SignalFrame, context) as u64;
        assert_eq!((x[0], x[1], x[2], x[30]), (Signal::SIGUSR1.number() as u64, sp, context, RESTORER));
        let record: [u64; 2] = program.memory().read(UserVa::new(x[29])).unwrap();
        assert_eq!(record, [before.x()[29], before.x()[30]]);
        assert_eq!((stored.context.sp, stored.context.pc), (before.sp_el0(), before.elr()));
        *program.frame.x_mut() = [0; 31];
        program.sigreturn().unwrap();
        let all = |frame: &UserFrame| (*frame.x(), frame.sp_el0(), frame.elr(), frame.spsr());
        assert_eq!(all(&program.frame), all(&before));
    }
}

/// Only the condition flags: with the other fields a program would choose its exception level.
#[test]
fn handler_can_change_only_the_flags_of_pstate() {
    let _kernel = boot();
    let mut program = SignalledProgram::new();
    program.handle(Signal::SIGUSR1, 0);
    let before = program.frame.spsr();
    let mut stored = program.deliver(Signal::SIGUSR1);
    stored.context.pstate = 0xa000_03c5;
    program.memory().write(UserVa::new(program.frame.sp_el0()), &stored).unwrap();
    program.sigreturn().unwrap();
    assert_eq!(program.frame.spsr(), before | 0xa000_0000);
}

#[test]
fn invalid_frame_is_not_restored() {
    let _kernel = boot();
    type Change = fn(&mut SignalFrame);
    let changes: [Change; 4] = [
        |_| (),
        |frame| frame.context.fp.magic += 1,
        |frame| frame.context.fp.size -= 16,
        |frame| frame.context.fp.magic = 0,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut program = SignalledProgram::new();
        program.handle(Signal::SIGUSR1, 0);
        let mut stored = program.deliver(Signal::SIGUSR1);
        change(&mut stored);
        let at = UserVa::new(program.frame.sp_el0());
        program.memory().write(at, &stored).unwrap();
        assert_eq!(program.sigreturn().is_ok(), n == 0, "change {n}");
    }
    let mut program = SignalledProgram::new();
    program.handle(Signal::SIGUSR1, 0);
    let stored = program.deliver(Signal::SIGUSR1);
    for misaligned in [8, 4] {
        let at = UserVa::new(program.frame.sp_el0() - misaligned);
        program.memory().write(at, &stored).unwrap();
        program.frame.set_sp(at);
        assert_eq!(program.sigreturn(), Err(Errno::EFAULT), "a frame at {at:?}");
    }
}

#[test]
fn nested_handler_continues_on_the_alternate_stack() {
    let _kernel = boot();
    let mut program = SignalledProgram::new();
    *program.task().signal_stack.lock() = ALTERNATE;
    program.handle(Signal::SIGUSR1, SA_ONSTACK);
    program.handle(Signal::SIGUSR2, SA_ONSTACK);
    let outer = program.deliver(Signal::SIGUSR1);
    let outer_sp = program.frame.sp_el0();
    assert!(ALTERNATE.contains(outer_sp) && outer.context.stack.flags == 0);
    let inner = program.deliver(Signal::SIGUSR2);
    let inner_sp = program.frame.sp_el0();
    assert!(ALTERNATE.contains(inner_sp) && inner_sp + SIGNAL_FRAME_BYTES <= outer_sp, "{inner_sp:#x}");
    assert_eq!(inner.context.stack.flags, SS_ONSTACK);
    assert_eq!(program.memory().read(UserVa::new(outer_sp)), Ok(outer), "overwritten");
    program.sigreturn().unwrap();
    assert_eq!(program.frame.sp_el0(), outer_sp);
    program.sigreturn().unwrap();
    assert_eq!(program.frame.sp_el0(), STACK.raw());
}

#[test]
fn handler_without_room_on_its_stack_terminates_the_process() {
    let _kernel = boot();
    for (flags, sp) in [(SA_ONSTACK, STACK.raw()), (0, BASE.raw() + 2 * PAGE_SIZE + 512)] {
        let mut program = SignalledProgram::new();
        // Below it is memory of the program, which must not be overwritten.
        let small = StackT { base: BASE.raw() + 2 * PAGE_SIZE, size: 1024, ..ALTERNATE };
        *program.task().signal_stack.lock() = small;
        program.frame.set_sp(UserVa::new(sp));
        program.handle(Signal::SIGUSR1, flags);
        program.send(Receiver::Process, Signal::SIGUSR1).unwrap();
        signals::deliver_all(Task::of(&program.thread).unwrap(), &mut program.frame, None);
        assert!(program.process.is_terminating(), "{flags:#x}");
        let below: [u64; 16] = program.memory().read(UserVa::new(small.base - 128)).unwrap();
        assert_eq!(below, [0; 16], "overrun");
    }
}

#[test]
fn disarmed_alternate_stack_is_armed_by_the_return() {
    let _kernel = boot();
    let mut program = SignalledProgram::new();
    let armed = StackT { flags: SS_AUTODISARM, ..ALTERNATE };
    *program.task().signal_stack.lock() = armed;
    program.handle(Signal::SIGUSR1, SA_ONSTACK);
    let mut stored = program.deliver(Signal::SIGUSR1);
    assert!(ALTERNATE.contains(program.frame.sp_el0()));
    // Other flags of the stored stack have no effect.
    stored.context.stack.flags |= SS_ONSTACK | SS_DISABLE | 1 << 5;
    program.memory().write(UserVa::new(program.frame.sp_el0()), &stored).unwrap();
    assert_eq!(*program.task().signal_stack.lock(), StackT::default(), "armed during the handler");
    program.sigreturn().unwrap();
    assert_eq!(*program.task().signal_stack.lock(), armed);
}

#[test]
fn interrupted_call_is_restarted_only_if_handler_and_call_permit() {
    let _kernel = boot();
    for (flags, after_handler, restarts) in [
        (SA_RESTART, AfterHandler::OnRequest, true),
        (SA_RESTART, AfterHandler::Never, false),
        (0, AfterHandler::OnRequest, false),
        (0, AfterHandler::Always, true),
    ] {
        let mut program = SignalledProgram::new();
        program.handle(Signal::SIGUSR1, flags);
        program.send(Receiver::Process, Signal::SIGUSR1).unwrap();
        let restart = Some(Restart { argument: 42, after_handler });
        signals::deliver_all(Task::of(&program.thread).unwrap(), &mut program.frame, restart);
        program.sigreturn().unwrap();
        let expected = if restarts { (42, PC - 4) } else { (100, PC) };
        assert_eq!((program.frame.x()[0], program.frame.elr()), expected, "{flags:#x} {after_handler:?}");
    }
    // Without a handler, as after another thread took the signal.
    let mut program = SignalledProgram::new();
    let restart = Some(Restart { argument: 42, after_handler: AfterHandler::Never });
    signals::deliver_all(Task::of(&program.thread).unwrap(), &mut program.frame, restart);
    assert_eq!((program.frame.x()[0], program.frame.elr()), (42, PC - 4));
}

#[test]
fn new_thread_inherits_mask_and_name() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    let mask = SignalSet::EMPTY.with(Signal::SIGUSR1);
    program.task().set_signal_mask(mask);
    let mut name = program.task().name();
    name[0] = b'x';
    program.task().set_name(name);
    let child = task(&program.process);
    child.inherit(program.task());
    assert_eq!((child.signal_mask(), child.name()), (mask, name));
}

#[test]
fn mask_of_sigsuspend_lasts_until_the_return_from_the_handler() {
    let _kernel = boot();
    let mut program = SignalledProgram::new();
    let before = SignalSet::EMPTY.with(Signal::SIGUSR1);
    program.task().set_signal_mask(before);
    program.handle(Signal::SIGUSR1, 0);
    program.task().suspend_mask(SignalSet::EMPTY);
    assert_eq!(program.task().signal_mask(), SignalSet::EMPTY);
    let stored = program.deliver(Signal::SIGUSR1);
    assert_eq!(stored.context.mask, before.bits());
    program.sigreturn().unwrap();
    assert_eq!(program.task().signal_mask(), before);
    program.task().suspend_mask(SignalSet::EMPTY);
    program.task().restore_mask();
    assert_eq!(program.task().signal_mask(), before, "without a signal");
}

#[test]
fn sigkill_and_sigstop_are_not_blocked() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    program.task().set_signal_mask(SignalSet::EMPTY.complement());
    let mask = program.task().signal_mask();
    assert!(!mask.contains(Signal::SIGKILL) && !mask.contains(Signal::SIGSTOP));
    assert!(mask.contains(Signal::SIGTERM));
}

/// `rt_sigtimedwait` of a blocked signal: that thread is woken, though another does not block the signal.
#[test]
fn signal_wakes_the_thread_that_awaits_it() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    program.handle(Signal::SIGUSR1, 0);
    let set = SignalSet::EMPTY.with(Signal::SIGUSR1);
    let waiting = new_thread(task(&program.process), program.frame.clone()).unwrap();
    assert!(program.process.add_thread(&waiting));
    let waiting_task = Task::of(&waiting).unwrap();
    waiting_task.set_signal_mask(set);
    waiting_task.await_signals(set);
    program.send(Receiver::Process, Signal::SIGUSR1).unwrap();
    assert_eq!([waiting.is_signalled(), program.thread.is_signalled()], [true, false]);
    assert!(waiting_task.has_signal(), "awaited");
    waiting_task.await_signals(SignalSet::EMPTY);
    assert!(!waiting_task.has_signal(), "blocked");
}

#[test]
fn signals_that_are_ignored_are_discarded() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    program.handle(Signal::SIGUSR1, 0);
    program.send(Receiver::Process, Signal::SIGUSR1).unwrap();
    program.send(Receiver::Thread(program.task().id()), Signal::SIGUSR1).unwrap();
    assert!(signals::pending(program.task()).contains(Signal::SIGUSR1));
    let ignore = SigAction { handler: SIG_IGN, ..SigAction::new_zeroed() };
    signals::set_action(&program.process, Signal::SIGUSR1, ignore);
    assert_eq!(signals::pending(program.task()), SignalSet::EMPTY);
    program.send(Receiver::Process, Signal::SIGUSR1).unwrap();
    assert_eq!(signals::pending(program.task()), SignalSet::EMPTY, "sent while it is ignored");
}

/// As in Linux: no process could continue it.
#[test]
fn first_process_is_not_stopped() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    assert_eq!(program.send(Receiver::Process, Signal::SIGSTOP), Ok(()));
    assert!(!program.process.is_stopped() && !program.thread.is_stopped());
    // Each discards the other, also if it is blocked.
    let blocked = SignalSet::EMPTY.with(Signal::SIGTSTP).with(Signal::SIGCONT);
    program.task().set_signal_mask(blocked);
    for (signal, pending) in [(Signal::SIGTSTP, Signal::SIGTSTP), (Signal::SIGCONT, Signal::SIGCONT)] {
        program.send(Receiver::Process, signal).unwrap();
        assert_eq!(signals::pending(program.task()), SignalSet::EMPTY.with(pending));
    }
}

#[test]
fn program_that_is_executed_ignores_what_its_process_ignored() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    program.handle(Signal::SIGUSR1, 0);
    let ignore = SigAction { handler: SIG_IGN, ..SigAction::new_zeroed() };
    signals::set_action(&program.process, Signal::SIGUSR2, ignore);
    program.process.signals.lock().reset_handlers();
    let handler = |signal: Signal| program.process.signals.lock().actions[signal.number()].handler;
    assert_eq!([Signal::SIGUSR1, Signal::SIGUSR2].map(handler), [SIG_DFL, SIG_IGN]);
}

#[test]
fn process_that_terminates_adds_no_thread_and_keeps_its_first_cause() {
    let _kernel = boot();
    let program = SignalledProgram::new();
    let late = new_thread(task(&program.process), program.frame.clone()).unwrap();
    assert!(program.process.terminate(Termination::Exited(3)));
    assert!(!program.process.terminate(Termination::Killed(Signal::SIGKILL)), "the second cause");
    assert!(program.thread.is_interrupted());
    assert!(!program.process.add_thread(&late));
}
