//! Exceptions: vector table, trap frame, syndromes.
//!
//! exception.s calls three functions with C names, defined by the kernel image, on the kernel stack of the
//! interrupted thread and with all exceptions masked:
//!
//! - `handle_sync(frame: &mut TrapFrame, from: Origin)`
//! - `handle_irq(frame: &mut TrapFrame, from: Origin)`
//! - `handle_unexpected(frame: &TrapFrame, vector: Vector) -> !`
//!
//! When one of the first two returns, execution resumes with the registers in `frame`. They are private for
//! that reason; a program's can be changed by [`UserFrame`].

mod esr;
mod memory_operation;

pub use esr::{DataAccess, Fault, Syndrome, SystemAccess};
pub use memory_operation::MemoryOperation;

use addr::UserVa;
use core::fmt;
use core::mem::offset_of;

/// The registers at an exception, read-only outside of this crate: execution resumes with them. exception.s
/// uses the layout.
#[repr(C, align(16))]
pub struct TrapFrame {
    x: [u64; 31],
    sp_el0: u64,
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    /// The frame record that x29 points to, for backtraces.
    record: [u64; 2],
}

impl TrapFrame {
    /// x0 to x30.
    #[inline]
    pub fn x(&self) -> &[u64; 31] {
        &self.x
    }

    /// SP_EL0; for [`Vector::StackOverflow`] the overflowed kernel stack pointer.
    #[inline]
    pub fn sp_el0(&self) -> u64 {
        self.sp_el0
    }

    /// ELR_EL1, the return address.
    #[inline]
    pub fn elr(&self) -> u64 {
        self.elr
    }

    /// SPSR_EL1, the saved PSTATE.
    #[inline]
    pub fn spsr(&self) -> u64 {
        self.spsr
    }

    /// ESR_EL1; decoded by [`TrapFrame::syndrome`].
    #[inline]
    pub fn esr(&self) -> u64 {
        self.esr
    }

    /// FAR_EL1, valid for some exception classes only ([`TrapFrame::fault_address`]).
    #[inline]
    pub fn far(&self) -> u64 {
        self.far
    }

    /// The address of the frame record of the interrupted kernel code; 0 for an exception from a program.
    pub(crate) fn caller_record(&self) -> u64 {
        self.record[0]
    }

    /// Changes the return address of an exception from the kernel.
    #[cfg(target_os = "none")]
    pub(crate) fn resume_at(&mut self, pc: u64) {
        self.elr = pc;
    }

    /// The frame as one of a program.
    ///
    /// # Safety
    /// The exception was taken from EL0 ([`Origin::User`]).
    #[inline]
    pub unsafe fn as_user(&mut self) -> &mut UserFrame {
        debug_assert!(self.spsr & MODE == EL0, "a frame of the kernel: {self:?}");
        // SAFETY: a transparent wrapper, whose invariant is the caller's promise.
        unsafe { &mut *core::ptr::from_mut(self).cast::<UserFrame>() }
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

/// `SPSR_EL1.M[4:0]` (C5.2.19): execution state, exception level and stack pointer.
const MODE: u64 = 0x1f;
/// [`MODE`] of EL0 in AArch64.
const EL0: u64 = 0;
/// The condition flags.
const NZCV: u64 = 0xf << 28;

/// The registers of a program. Its PSTATE selects EL0 with interrupts unmasked, so every value of the other
/// registers is safe to resume with.
#[repr(transparent)]
pub struct UserFrame(TrapFrame);

impl UserFrame {
    /// The initial frame of a program: start address `pc`, stack pointer `sp`, other registers 0, interrupts
    /// unmasked.
    pub fn program(pc: UserVa, sp: UserVa) -> Self {
        let (elr, sp_el0) = (pc.raw(), sp.raw());
        Self(TrapFrame { x: [0; 31], sp_el0, elr, spsr: EL0, esr: 0, far: 0, record: [0; 2] })
    }

    /// x0 to x30.
    #[inline]
    pub fn x_mut(&mut self) -> &mut [u64; 31] {
        &mut self.0.x
    }

    /// Sets SP_EL0.
    #[inline]
    pub fn set_sp(&mut self, sp: UserVa) {
        self.0.sp_el0 = sp.raw();
    }

    /// Whether the program executed an SVC in AArch64 state.
    #[inline]
    pub const fn is_svc(&self) -> bool {
        esr::is_svc(self.0.esr)
    }

    /// Sets the address at which the program continues.
    #[inline]
    pub fn set_pc(&mut self, pc: u64) {
        self.0.elr = pc;
    }

    /// Sets the condition flags to those of `pstate`; the rest of PSTATE is kept.
    #[inline]
    pub fn set_flags(&mut self, pstate: u64) {
        self.0.spsr = self.0.spsr & !NZCV | pstate & NZCV;
    }

    /// Resumes after the trapped instruction.
    #[inline]
    pub fn skip_instruction(&mut self) {
        self.0.elr += 4;
    }

    /// Resumes a trapped memory copy or memory set at its prologue. `false` if the exception is another one.
    #[inline]
    pub fn restart(&mut self) -> bool {
        self.0.restart()
    }
}

impl Clone for UserFrame {
    fn clone(&self) -> Self {
        let TrapFrame { x, sp_el0, elr, spsr, esr, far, record } = self.0;
        Self(TrapFrame { x, sp_el0, elr, spsr, esr, far, record })
    }
}

impl core::ops::Deref for UserFrame {
    type Target = TrapFrame;

    #[inline]
    fn deref(&self) -> &TrapFrame {
        &self.0
    }
}

impl fmt::Debug for UserFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(esr: u64) -> UserFrame {
        let mut frame = UserFrame::program(UserVa::new(0x1000), UserVa::new(0x2000));
        (frame.0.esr, frame.0.far) = (esr, 0x3008);
        frame
    }

    /// A program that could set the others would return to EL1, or with interrupts masked.
    #[test]
    fn only_condition_flags_of_a_program_can_be_set() {
        let mut frame = frame(0);
        frame.set_flags(u64::MAX);
        assert_eq!(frame.spsr(), 0xf000_0000);
        frame.set_flags(0x8000_03c5);
        assert_eq!(frame.spsr(), 0x8000_0000);
    }

    #[test]
    fn fault_address_exists_only_where_far_is_valid() {
        assert_eq!(frame(0x9200_0007).fault_address(), Some(0x3008));
        assert_eq!(frame(0x5600_0000).fault_address(), None, "an SVC leaves FAR unchanged");
    }
}
