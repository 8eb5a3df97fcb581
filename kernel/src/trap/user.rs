//! Exceptions from EL0: system calls, page faults, and fatal signals.

use crate::process::{self, Task, Termination};
use crate::sched::{self, Thread};
use crate::vm::address_space::AccessError;
use crate::{kprintln, panic, syscall};
use abi::memory::Prot;
use abi::signal::Signal;
use addr::UserVa;
use arch::exception::{DataAccess, Fault, Syndrome, UserFrame};

/// Handles a synchronous exception from EL0. Interrupts are masked at the call and at the return.
pub fn exception(frame: &mut UserFrame) {
    // SAFETY: the exception entry has masked interrupts; EL0 holds no guard.
    unsafe { arch::cpu::unmask_irqs() };
    let thread = sched::current();
    handle(&thread, frame);
    core::mem::forget(arch::cpu::mask_irqs());
    process::before_return(thread);
    arch::irqsoff::end();
}

fn handle(thread: &Thread, frame: &mut UserFrame) {
    let Some(task) = Task::of(thread) else { panic!("exception from EL0 in a kernel thread: {frame:?}") };
    match frame.syndrome() {
        Syndrome::Svc(_) => syscall::dispatch(task, frame),
        Syndrome::DataAbort { fault, access, .. } => {
            memory_fault(task, frame, fault, required_protection(access));
        }
        Syndrome::InstructionAbort(fault) => memory_fault(task, frame, fault, Prot::EXEC),
        Syndrome::PcAlignment | Syndrome::SpAlignment => kill(task, frame, Signal::SIGBUS),
        Syndrome::Brk(_) | Syndrome::Breakpoint | Syndrome::Step | Syndrome::Watchpoint => {
            kill(task, frame, Signal::SIGTRAP);
        }
        Syndrome::MemoryOperation(_) => {
            frame.restart();
        }
        Syndrome::FpException => kill(task, frame, Signal::SIGFPE),
        // A trapped WFE or WFI, skipped: both may complete at any time.
        Syndrome::Wait => frame.skip_instruction(),
        _ => kill(task, frame, Signal::SIGILL),
    }
}

fn required_protection(access: DataAccess) -> Prot {
    match access {
        DataAccess::Write => Prot::READ | Prot::WRITE,
        DataAccess::Read | DataAccess::CacheMaintenance => Prot::READ,
    }
}

fn memory_fault(task: &Task, frame: &UserFrame, fault: Fault, access: Prot) {
    let resolvable = matches!(fault, Fault::Translation(_) | Fault::Permission(_) | Fault::AccessFlag(_));
    let signal = match frame.fault_address() {
        Some(at) if resolvable => match task.process().space.handle_fault(UserVa::new(at), access) {
            // Also if the process is being terminated: the thread exits instead of returning.
            Ok(()) | Err(AccessError::Interrupted) => return,
            Err(AccessError::Unmapped | AccessError::Denied) => Signal::SIGSEGV,
            Err(AccessError::OutOfMemory) => Signal::SIGKILL,
        },
        _ => Signal::SIGBUS,
    };
    kill(task, frame, signal);
}

/// Terminates the process of the running thread, and prints a report.
fn kill(task: &Task, frame: &UserFrame, signal: Signal) {
    if !task.process().terminate(Termination::Killed(signal)) {
        return;
    }
    kprintln!("program {} (thread {}): {signal}: {}", task.process().id(), task.id(), frame.syndrome());
    if let Some(address) = frame.fault_address() {
        kprintln!("  at address {address:#x}, instruction {:#x}", frame.elr());
    }
    panic::print_registers(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's `DC CVAU` does not translate its address, so that no program can show it there.
    #[test]
    fn cache_maintenance_requires_read_access_only() {
        // Data aborts from EL0, translation fault, level 3: DC CVAU (CM and WnR are 1), a store, a load.
        for (esr, required) in
            [(0x9200_0147, Prot::READ), (0x9200_0047, Prot::READ | Prot::WRITE), (0x9200_0007, Prot::READ)]
        {
            let Syndrome::DataAbort { access, .. } = Syndrome::decode(esr) else { panic!("{esr:#x}") };
            assert_eq!(required_protection(access), required, "{esr:#x}");
        }
    }
}
