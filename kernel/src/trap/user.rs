//! What happens when a program leaves EL0: system calls, first touches, and the end of programs that do wrong.

use crate::process::{self, Ending, Task};
use crate::sched::{self, Thread};
use crate::vm::address_space::AccessError;
use crate::{kprintln, panic, syscall};
use abi::memory::Prot;
use abi::signal::Signal;
use addr::UserVa;
use arch::exception::{Fault, Syndrome, TrapFrame};

/// A synchronous exception from a program. Interrupts are masked when it is called and when it returns.
pub fn exception(frame: &mut TrapFrame) {
    arch::cpu::unmask_irqs();
    let thread = sched::current();
    handle(&thread, frame);
    core::mem::forget(arch::cpu::mask_irqs());
    process::before_return(thread);
}

fn handle(thread: &Thread, frame: &mut TrapFrame) {
    let Some(task) = Task::of(thread) else { panic!("a thread without a program came from EL0: {frame:?}") };
    match frame.syndrome() {
        Syndrome::Svc(_) => syscall::dispatch(task, frame),
        Syndrome::DataAbort { fault, write, .. } => {
            let access = if write { Prot::READ | Prot::WRITE } else { Prot::READ };
            memory_fault(task, frame, fault, access);
        }
        Syndrome::InstructionAbort(fault) => memory_fault(task, frame, fault, Prot::EXEC),
        Syndrome::PcAlignment | Syndrome::SpAlignment => kill(task, frame, Signal::SIGBUS),
        Syndrome::Brk(_) | Syndrome::Breakpoint | Syndrome::Step | Syndrome::Watchpoint => {
            kill(task, frame, Signal::SIGTRAP);
        }
        Syndrome::MemoryOperation(operation) => frame.restart(operation),
        Syndrome::FpException => kill(task, frame, Signal::SIGFPE),
        // Others wait with WFE for a lock, say; going on is always right.
        Syndrome::Wait => frame.elr += 4,
        _ => kill(task, frame, Signal::SIGILL),
    }
}

fn memory_fault(task: &Task, frame: &TrapFrame, fault: Fault, access: Prot) {
    let resolvable = matches!(fault, Fault::Translation(_) | Fault::Permission(_) | Fault::AccessFlag(_));
    let signal = match frame.fault_address() {
        Some(at) if resolvable => match task.process().space.handle_fault(UserVa::new(at), access) {
            Ok(()) => return,
            Err(AccessError::Unmapped | AccessError::Denied) => Signal::SIGSEGV,
            Err(AccessError::OutOfMemory) => Signal::SIGKILL,
        },
        _ => Signal::SIGBUS,
    };
    kill(task, frame, signal);
}

/// Ends the program of the running thread with a report.
fn kill(task: &Task, frame: &TrapFrame, signal: Signal) {
    if !task.process().end(Ending::Killed(signal)) {
        return;
    }
    kprintln!("program {} (thread {}): {signal}: {}", task.process().id(), task.id(), frame.syndrome());
    if let Some(address) = frame.fault_address() {
        kprintln!("  at address {address:#x}, instruction {:#x}", frame.elr);
    }
    panic::registers(frame);
}
