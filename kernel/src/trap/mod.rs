//! Exception dispatch: exceptions from EL0 to `user`, interrupts to `irq`. A synchronous exception in the
//! kernel is a panic, except at a bad address in a user copy, which fails instead.

mod user;

use crate::{irq, panic, process};
use arch::exception::{TrapFrame, UserFrame, Vector};

pub use user::exception as user_exception;

/// Handles a synchronous exception from the kernel: restarts a memory copy or set instruction (FEAT_MOPS)
/// that the thread started on another CPU, or fails the user copy that faulted. Panics on any other.
pub fn kernel_exception(frame: &mut TrapFrame) {
    if !frame.restart() && !arch::user_copy::fixup(frame) {
        panic::report_trap(&format_args!("{} in the kernel", frame.syndrome()), frame)
    }
}

/// Handles an interrupt of the kernel.
pub fn kernel_interrupt() {
    arch::irqsoff::start();
    irq::dispatch();
    arch::irqsoff::end();
}

/// Handles an interrupt of a program.
pub fn user_interrupt(frame: &mut UserFrame) {
    arch::irqsoff::start();
    irq::dispatch();
    process::before_return(frame, None);
    arch::irqsoff::end();
}

/// Panics on an exception that must not occur: FIQ, SError, from EL1 with SP_EL0, from AArch32, or a kernel
/// stack overflow.
pub fn unexpected(frame: &TrapFrame, vector: Vector) -> ! {
    panic::report_trap(&format_args!("{vector:?}: {}", frame.syndrome()), frame)
}
