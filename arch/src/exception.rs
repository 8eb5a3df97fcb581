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

mod esr;
mod memory_operation;

pub use esr::{Fault, Syndrome, SystemAccess};
pub use memory_operation::MemoryOperation;

use addr::UserVa;
use core::fmt;
use core::mem::offset_of;

/// The registers of what was interrupted (layout shared with exception.s).
#[repr(C, align(16))]
#[derive(Clone)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The program's stack pointer. In the frame of a [`Vector::StackOverflow`] the overflowed one.
    pub sp_el0: u64,
    /// Where it goes on.
    pub elr: u64,
    /// PSTATE.
    pub spsr: u64,
    /// What happened; [`TrapFrame::syndrome`] decodes it.
    pub esr: u64,
    /// The address it happened at, where `esr` says that this is valid.
    pub far: u64,
    /// The frame record that x29 points to, for backtraces.
    record: [u64; 2],
}

impl TrapFrame {
    /// What a program starts with: at `pc`, its stack pointer `sp`, all else 0, interrupts unmasked.
    pub fn program(pc: UserVa, sp: UserVa) -> Self {
        const EL0: u64 = 0;
        Self { x: [0; 31], sp_el0: sp.raw(), elr: pc.raw(), spsr: EL0, esr: 0, far: 0, record: [0; 2] }
    }

    /// What happened, for a synchronous exception or an SError.
    pub fn syndrome(&self) -> Syndrome {
        Syndrome::decode(self.esr)
    }

    /// The address it happened at; `None` where there is none.
    pub fn fault_address(&self) -> Option<u64> {
        self.syndrome().has_address().then_some(self.far)
    }
}

impl fmt::Debug for TrapFrame {
    /// All registers, two to a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pc  {:016x}  pstate {:08x}  esr {:08x}", self.elr, self.spsr, self.esr)?;
        writeln!(f, "far {:016x}  sp_el0 {:016x}", self.far, self.sp_el0)?;
        for (number, pair) in self.x.chunks(2).enumerate() {
            match pair {
                [a, b] => writeln!(f, "x{:<2} {a:016x}  x{:<2} {b:016x}", 2 * number, 2 * number + 1)?,
                _ => write!(f, "x{:<2} {:016x}", 2 * number, pair[0])?,
            }
        }
        Ok(())
    }
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
