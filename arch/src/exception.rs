//! Exceptions: vector table, trap frame, syndromes.
//!
//! exception.s calls three functions with C names, defined by the kernel image, on the kernel stack of the
//! interrupted thread and with all exceptions masked:
//!
//! - `handle_sync(frame: &mut TrapFrame, from: Origin)`
//! - `handle_irq(frame: &mut TrapFrame, from: Origin)`
//! - `handle_unexpected(frame: &mut TrapFrame, vector: Vector) -> !`
//!
//! When one of the first two returns, execution resumes with the registers in `frame`.

mod esr;
mod memory_operation;

pub use esr::{DataAccess, Fault, Syndrome, SystemAccess};
pub use memory_operation::MemoryOperation;

use addr::UserVa;
use core::fmt;
use core::mem::offset_of;

/// The registers at an exception. exception.s uses the layout.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL0; for [`Vector::StackOverflow`] the overflowed kernel stack pointer.
    pub sp_el0: u64,
    /// ELR_EL1, the return address.
    pub elr: u64,
    /// SPSR_EL1, the saved PSTATE.
    pub spsr: u64,
    /// ESR_EL1; decoded by [`TrapFrame::syndrome`].
    pub esr: u64,
    /// FAR_EL1, valid for some exception classes only ([`TrapFrame::fault_address`]).
    pub far: u64,
    /// The frame record that x29 points to, for backtraces.
    record: [u64; 2],
}

impl TrapFrame {
    /// The initial frame of a program: start address `pc`, stack pointer `sp`, other registers 0, interrupts
    /// unmasked.
    pub fn program(pc: UserVa, sp: UserVa) -> Self {
        const EL0: u64 = 0;
        Self { x: [0; 31], sp_el0: sp.raw(), elr: pc.raw(), spsr: EL0, esr: 0, far: 0, record: [0; 2] }
    }

    /// The syndrome of a synchronous exception or an SError.
    pub fn syndrome(&self) -> Syndrome {
        Syndrome::decode(self.esr)
    }

    /// The faulting address; `None` if FAR_EL1 is not valid for the exception.
    pub fn fault_address(&self) -> Option<u64> {
        self.syndrome().has_address().then_some(self.far)
    }
}

impl fmt::Debug for TrapFrame {
    /// Writes all registers, two per line.
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

/// The exception level from which an exception was taken.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The kernel, at EL1.
    Kernel = 0,
    /// A program, at EL0.
    User = 1,
}

/// A vector of an unexpected exception.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vector {
    /// Synchronous, from EL1 with SP_EL0.
    SyncSp0 = 0,
    /// IRQ, from EL1 with SP_EL0.
    IrqSp0 = 1,
    /// FIQ, from EL1 with SP_EL0.
    FiqSp0 = 2,
    /// SError, from EL1 with SP_EL0.
    SErrorSp0 = 3,
    /// FIQ from the kernel.
    FiqKernel = 6,
    /// SError from the kernel.
    SErrorKernel = 7,
    /// FIQ from a program.
    FiqUser = 10,
    /// SError from a program.
    SErrorUser = 11,
    /// Synchronous, from AArch32.
    Sync32 = 12,
    /// IRQ from AArch32.
    Irq32 = 13,
    /// FIQ from AArch32.
    Fiq32 = 14,
    /// SError from AArch32.
    SError32 = 15,
    /// Kernel stack overflow into the guard page. The frame is on the emergency stack of the CPU.
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

    /// Sets VBAR_EL1 of this CPU.
    pub(crate) fn install() {
        VBAR_EL1.set((&raw const vectors) as u64);
        barrier::isb();
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::*;
