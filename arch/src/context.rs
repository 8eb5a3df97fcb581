//! Context switch between kernel threads, and entry to EL0.

use addr::{KernelVa, UserVa};

/// The saved context of a kernel thread: the callee-saved registers (AAPCS64) and the stack pointer.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Context {
    /// x19 to x28.
    callee_saved: [u64; 10],
    /// x29.
    frame_pointer: u64,
    /// x30, the resume address.
    link: u64,
    stack: u64,
}

impl Context {
    /// A context for [`switch`] to save into.
    pub const fn empty() -> Self {
        Self { callee_saved: [0; 10], frame_pointer: 0, link: 0, stack: 0 }
    }

    /// The context of a new thread that calls `entry` with `argument` on an empty stack. It starts with the
    /// interrupt mask of the thread that switches to it.
    pub fn new(stack_top: KernelVa, entry: extern "C" fn(usize) -> !, argument: usize) -> Self {
        let mut context = Self::empty();
        context.callee_saved[0] = argument as u64;
        context.callee_saved[1] = entry as *const () as u64;
        context.link = target::thread_start();
        context.stack = stack_top.raw();
        context
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::empty()
    }
}

/// FP and SIMD registers of a user thread. The kernel is built without FP, so they are saved and restored
/// only when another user thread runs.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct FpState {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl FpState {
    /// The initial state of a program: zeros, round to nearest, no trapped exceptions.
    pub const fn new() -> Self {
        Self { q: [0; 32], fpcr: 0, fpsr: 0 }
    }

    /// The state with these values of q0 to q31, FPCR and FPSR.
    pub const fn from_registers(q: [u128; 32], fpcr: u32, fpsr: u32) -> Self {
        Self { q, fpcr: fpcr as u64, fpsr: fpsr as u64 }
    }

    /// q0 to q31, FPCR and FPSR.
    pub const fn registers(&self) -> (&[u128; 32], u32, u32) {
        (&self.q, self.fpcr as u32, self.fpsr as u32)
    }

    /// Saves the registers of this CPU.
    pub fn save(&mut self) {
        target::save_fp(self);
    }

    /// Loads the registers of this CPU.
    pub fn restore(&self) {
        target::restore_fp(self);
    }
}

impl Default for FpState {
    fn default() -> Self {
        Self::new()
    }
}

/// The user thread pointer (TPIDR_EL0). Writable at EL0, so a context switch must save it.
pub fn thread_pointer() -> UserVa {
    UserVa::new(target::tpidr_el0())
}

/// Sets the user thread pointer.
pub fn set_thread_pointer(value: UserVa) {
    target::set_tpidr_el0(value.raw());
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::exception::UserFrame;
    use aarch64_cpu::registers::{Readable, TPIDR_EL0, Writeable};

    core::arch::global_asm!(include_str!("context.s"), options(raw));

    unsafe extern "C" {
        fn context_switch(from: *mut Context, to: *const Context);
        fn context_thread_start();
        fn context_enter_user(frame: *const UserFrame, stack_top: u64) -> !;
        fn fp_save(state: *mut FpState);
        fn fp_restore(state: *const FpState);
    }

    /// Saves the running thread in `from` and resumes `to`. Returns after a switch to `from`, possibly on
    /// another CPU.
    ///
    /// # Safety
    /// Interrupts are masked. `to` was saved by `switch` or made by [`Context::new`], and is resumed once
    /// only; its stack is intact and not in use by another CPU. Both contexts stay valid until they are
    /// resumed; the caller's lock orders the accesses of different CPUs.
    pub unsafe fn switch(from: *mut Context, to: *const Context) {
        // SAFETY: the caller's promise.
        unsafe { context_switch(from, to) }
    }

    /// Returns to EL0 with the registers in `frame`. The next exception of the thread starts on an empty
    /// stack below `stack_top`.
    ///
    /// # Safety
    /// The program's tables are installed, and its FP state is loaded. `stack_top` is the 16-byte aligned top
    /// of the running thread's stack, whose contents are no longer needed.
    pub unsafe fn enter_user(frame: &UserFrame, stack_top: KernelVa) -> ! {
        // SAFETY: the caller's promise; a frame on this stack is read before the next push.
        unsafe { context_enter_user(frame, stack_top.raw()) }
    }

    pub(super) fn thread_start() -> u64 {
        context_thread_start as *const () as u64
    }

    pub(super) fn save_fp(state: &mut FpState) {
        // SAFETY: `state` has the layout that the assembly writes.
        unsafe { fp_save(state) }
    }

    pub(super) fn restore_fp(state: &FpState) {
        // SAFETY: `state` has the layout that the assembly reads; the kernel uses none of these registers.
        unsafe { fp_restore(state) }
    }

    pub(super) fn tpidr_el0() -> u64 {
        TPIDR_EL0.get()
    }

    pub(super) fn set_tpidr_el0(value: u64) {
        TPIDR_EL0.set(value);
    }
}

/// No context switch on a host.
#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::exception::UserFrame;

    /// No operation on a host.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn switch(_: *mut Context, _: *const Context) {}

    /// Panics on a host.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn enter_user(frame: &UserFrame, _: KernelVa) -> ! {
        panic!("no EL0 on a host to enter at {:#x}", frame.elr())
    }

    pub(super) fn thread_start() -> u64 {
        0
    }

    pub(super) fn save_fp(_: &mut FpState) {}

    pub(super) fn restore_fp(_: &FpState) {}

    pub(super) fn tpidr_el0() -> u64 {
        0
    }

    pub(super) fn set_tpidr_el0(_: u64) {}
}

pub use target::{enter_user, switch};
