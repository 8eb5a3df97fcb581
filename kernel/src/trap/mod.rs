//! Where exceptions go: programs' to `user`, interrupts to `irq`, and the kernel's own are the end - unless a copy
//! from or to a program has met a bad address, which is the program's fault.

mod user;

use crate::{irq, panic, process, sched};
use arch::exception::{Origin, Syndrome, TrapFrame, Vector};

/// A synchronous exception.
pub fn sync(frame: &mut TrapFrame, from: Origin) {
    match from {
        Origin::User => user::exception(frame),
        Origin::Kernel if restarted(frame) || arch::user_copy::fixup(frame) => {}
        Origin::Kernel => panic::report_trap(&format_args!("{} in the kernel", frame.syndrome()), frame),
    }
}

/// An interrupt.
pub fn interrupt(_frame: &mut TrapFrame, from: Origin) {
    irq::dispatch();
    if from == Origin::User {
        process::before_return(sched::current());
    }
}

/// Something that nothing should ever cause.
pub fn bad(frame: &TrapFrame, vector: Vector) -> ! {
    panic::report_trap(&format_args!("{vector:?}: {}", frame.syndrome()), frame)
}

/// Restarts a memory copy or memory set that the running thread began on another CPU.
fn restarted(frame: &mut TrapFrame) -> bool {
    let Syndrome::MemoryOperation(operation) = frame.syndrome() else { return false };
    frame.restart(operation);
    true
}
