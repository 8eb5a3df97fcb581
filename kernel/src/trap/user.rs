//! Exceptions from EL0: system calls, page faults, and fatal signals.

use crate::process::signals::{self, Restart};
use crate::process::{self, Task, Termination};
use crate::vm::address_space::AccessError;
use crate::{kprintln, panic, syscall};
use abi::memory::Prot;
use abi::signal::{
    BUS_ADRALN, BUS_ADRERR, ILL_ILLOPC, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, SigInfo, Signal, TRAP_BRKPT,
};
use addr::UserVa;
use arch::exception::{DataAccess, Fault, Syndrome, UserFrame};

/// Handles a synchronous exception from EL0. Interrupts are masked at the call and at the return.
pub fn exception(frame: &mut UserFrame) {
    // SAFETY: the exception entry has masked interrupts; EL0 holds no guard.
    unsafe { arch::cpu::unmask_irqs() };
    let restart = Task::with_current(|task| handle(task, frame));
    core::mem::forget(arch::cpu::mask_irqs());
    process::before_return(frame, restart);
    arch::irqsoff::end();
}

/// Returns the system call if a signal interrupted it and it can be executed again.
fn handle(task: &Task, frame: &mut UserFrame) -> Option<Restart> {
    // Before the syndrome is decoded: a tenth of a trivial system call.
    if frame.is_svc() {
        return syscall::dispatch(task, frame);
    }
    match frame.syndrome() {
        Syndrome::DataAbort { fault, access, .. } => {
            memory_fault(task, frame, fault, required_protection(access));
        }
        Syndrome::InstructionAbort(fault) => memory_fault(task, frame, fault, Prot::EXEC),
        Syndrome::PcAlignment | Syndrome::SpAlignment => raise(task, frame, Signal::SIGBUS, BUS_ADRALN),
        Syndrome::Brk(_) | Syndrome::Breakpoint | Syndrome::Step | Syndrome::Watchpoint => {
            raise(task, frame, Signal::SIGTRAP, TRAP_BRKPT);
        }
        Syndrome::MemoryOperation(_) => {
            frame.restart();
        }
        Syndrome::FpException => raise(task, frame, Signal::SIGFPE, SI_KERNEL),
        // A trapped WFE or WFI, skipped: both may complete at any time.
        Syndrome::Wait => frame.skip_instruction(),
        _ => raise(task, frame, Signal::SIGILL, ILL_ILLOPC),
    }
    None
}

fn required_protection(access: DataAccess) -> Prot {
    match access {
        DataAccess::Write => Prot::READ | Prot::WRITE,
        DataAccess::Read | DataAccess::CacheMaintenance => Prot::READ,
    }
}

fn memory_fault(task: &Task, frame: &UserFrame, fault: Fault, access: Prot) {
    let resolvable = matches!(fault, Fault::Translation(_) | Fault::Permission(_) | Fault::AccessFlag(_));
    let code = match frame.fault_address() {
        Some(at) if resolvable => match task.space().handle_fault(UserVa::new(at), access) {
            // Also if the process is being terminated: the thread exits instead of returning.
            Ok(()) | Err(AccessError::Interrupted) => return,
            Err(AccessError::Unmapped) => SEGV_MAPERR,
            Err(AccessError::Denied) => SEGV_ACCERR,
            Err(AccessError::BeyondFile) => return raise(task, frame, Signal::SIGBUS, BUS_ADRERR),
            Err(AccessError::OutOfMemory) => return kill(task, frame, Signal::SIGKILL),
        },
        _ => return raise(task, frame, Signal::SIGBUS, BUS_ADRALN),
    };
    raise(task, frame, Signal::SIGSEGV, code);
}

/// Calls the handler of `signal`, or terminates the process of the running thread and prints a report.
fn raise(task: &Task, frame: &UserFrame, signal: Signal, code: i32) {
    let address = frame.fault_address().unwrap_or(frame.elr());
    if !signals::raise(task, signal, SigInfo::fault(signal, code, address)) {
        kill(task, frame, signal);
    }
}

/// Terminates the process of the running thread, and prints a report.
fn kill(task: &Task, frame: &UserFrame, signal: Signal) {
    if !task.process().terminate(Termination::Killed(signal)) {
        return;
    }
    let name = task.name();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default().escape_ascii();
    kprintln!(
        "program {} ({name}, thread {}): {signal}: {}",
        task.process().id(),
        task.id(),
        frame.syndrome()
    );
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
