//! Exception dispatch: exceptions from EL0 to `user`, interrupts to `irq`. A synchronous exception in the
//! kernel is a panic, except at a bad address in a user copy, which fails instead.

mod user;

use crate::{irq, panic, process, sched};
use arch::exception::{Origin, Syndrome, TrapFrame, Vector};

/// Handles a synchronous exception.
pub fn sync(frame: &mut TrapFrame, from: Origin) {
    match from {
        Origin::User => user::exception(frame),
        Origin::Kernel if restarted(frame) || arch::user_copy::fixup(frame) => {}
        Origin::Kernel => panic::report_trap(&format_args!("{} in the kernel", frame.syndrome()), frame),
    }
}

/// Handles an interrupt.
pub fn interrupt(_frame: &mut TrapFrame, from: Origin) {
    irq::dispatch();
    if from == Origin::User {
        process::before_return(sched::current());
    }
}

/// Panics on an exception that must not occur: FIQ, SError, from EL1 with SP_EL0, from AArch32, or a kernel
/// stack overflow.
pub fn unexpected(frame: &TrapFrame, vector: Vector) -> ! {
    panic::report_trap(&format_args!("{vector:?}: {}", frame.syndrome()), frame)
}

/// Restarts a memory copy or set instruction (FEAT_MOPS) that the thread started on another CPU. Returns
/// `false` for another exception.
fn restarted(frame: &mut TrapFrame) -> bool {
    let Syndrome::MemoryOperation(operation) = frame.syndrome() else { return false };
    frame.restart(operation);
    true
}
