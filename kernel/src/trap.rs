//! Where exceptions go: programs' to `user`, interrupts to `irq`, and the kernel's own are the end - unless a copy
//! from or to a program has met a bad address, which is the program's fault.

use crate::{irq, panic};
use arch::exception::{Origin, TrapFrame, Vector};

/// A synchronous exception.
pub fn sync(frame: &mut TrapFrame, from: Origin) {
    match from {
        Origin::User => panic::report_trap(&"user", frame),
        Origin::Kernel => panic::report_trap(&format_args!("{} in the kernel", frame.esr), frame),
    }
}

/// An interrupt.
pub fn interrupt(_frame: &mut TrapFrame, from: Origin) {
    irq::dispatch();
    if from == Origin::User {}
}

/// Something that nothing should ever cause.
pub fn bad(frame: &TrapFrame, vector: Vector) -> ! {
    panic::report_trap(&format_args!("{vector:?}: {}", frame.esr), frame)
}
