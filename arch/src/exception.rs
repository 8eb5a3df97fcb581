//! Exceptions: the vector table, what it saves, and what a syndrome means.
//!
//! exception.s calls three functions that the kernel crate defines with C names, on the interrupted thread's kernel
//! stack and with all exceptions masked:
//!
//! - `handle_sync(frame: &mut TrapFrame, from: Origin)`
//! - `handle_irq(frame: &mut TrapFrame, from: Origin)`
//! - `handle_bad(frame: &mut TrapFrame, vector: Vector) -> !`
//!
//! When the first two return, what `frame` then describes goes on.

use core::mem::offset_of;

/// The registers of what was interrupted (layout shared with exception.s).
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The program's stack pointer. In the frame of a [`Vector::StackOverflow`] the overflowed one.
    pub sp_el0: u64,
    /// Where it goes on.
    pub elr: u64,
    /// PSTATE.
    pub spsr: u64,
    /// What happened; decode it with [`Esr`].
    pub esr: u64,
    /// The address it happened at, where `esr` says that this is valid.
    pub far: u64,
    /// The frame record that x29 points to, for backtraces.
    record: [u64; 2],
}

const _: () = assert!(
    size_of::<TrapFrame>() == 304
        && offset_of!(TrapFrame, sp_el0) == 248
        && offset_of!(TrapFrame, elr) == 256
        && offset_of!(TrapFrame, esr) == 272
        && offset_of!(TrapFrame, record) == 288
);

/// Who was interrupted.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The kernel, at EL1.
    Kernel = 0,
    /// A program, at EL0.
    User = 1,
}

/// A vector that nothing should ever arrive at.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vector {
    /// Synchronous, at EL1 on the program's stack pointer.
    SyncSp0 = 0,
    /// IRQ, likewise.
    IrqSp0 = 1,
    /// FIQ, likewise.
    FiqSp0 = 2,
    /// SError, likewise.
    SErrorSp0 = 3,
    /// FIQ from the kernel.
    FiqKernel = 6,
    /// SError from the kernel.
    SErrorKernel = 7,
    /// FIQ from a program.
    FiqUser = 10,
    /// SError while a program ran.
    SErrorUser = 11,
    /// Synchronous, from AArch32.
    Sync32 = 12,
    /// IRQ from AArch32.
    Irq32 = 13,
    /// FIQ from AArch32.
    Fiq32 = 14,
    /// SError from AArch32.
    SError32 = 15,
    /// A kernel stack ran into its guard page. The frame is on the CPU's emergency stack.
    StackOverflow = 16,
}

#[cfg(target_os = "none")]
mod target {
    use crate::barrier;
    use aarch64_cpu::registers::{VBAR_EL1, Writeable};

    core::arch::global_asm!(include_str!("exception.s"), options(raw));

    unsafe extern "C" {
        static vectors: u8;
    }

    /// Points this CPU at the vector table.
    pub(crate) fn install() {
        VBAR_EL1.set((&raw const vectors) as u64);
        barrier::isb();
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::*;
