//! Changing what a CPU runs: one kernel thread to another, and the kernel to a program.

use addr::{KernelVa, UserVa};

/// Where a kernel thread goes on: the registers that a function call keeps (AAPCS64), and the stack.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Context {
    /// x19 to x28.
    kept: [u64; 10],
    /// x29.
    frame: u64,
    /// x30, where it goes on.
    link: u64,
    stack: u64,
}

impl Context {
    /// For [`switch`] to save the running thread into.
    pub const fn empty() -> Self {
        Self { kept: [0; 10], frame: 0, link: 0, stack: 0 }
    }

    /// A thread that calls `entry` with `argument` on an empty stack. Interrupts are as the thread that
    /// switches to it left them.
    pub fn new(stack_top: KernelVa, entry: extern "C" fn(usize) -> !, argument: usize) -> Self {
        let mut context = Self::empty();
        context.kept[0] = argument as u64;
        context.kept[1] = entry as *const () as u64;
        context.link = target::first_step();
        context.stack = stack_top.raw();
        context
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::empty()
    }
}

/// A program's FP and SIMD registers. The kernel is built without them, so they stay the program's until
/// another runs.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct FpState {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl FpState {
    /// What a program starts with: zeroes, round to nearest, no exceptions trapped.
    pub const fn new() -> Self {
        Self { q: [0; 32], fpcr: 0, fpsr: 0 }
    }

    /// Takes this CPU's registers.
    pub fn save(&mut self) {
        target::save_fp(self);
    }

    /// Puts them into this CPU.
    pub fn restore(&self) {
        target::restore_fp(self);
    }
}

impl Default for FpState {
    fn default() -> Self {
        Self::new()
    }
}

/// The program's thread pointer (TPIDR_EL0), which the program sets itself: to be saved when another runs.
pub fn thread_pointer() -> UserVa {
    UserVa::new(target::tpidr_el0())
}

/// Sets the program's thread pointer.
pub fn set_thread_pointer(value: UserVa) {
    target::set_tpidr_el0(value.raw());
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::exception::TrapFrame;
    use aarch64_cpu::registers::{Readable, TPIDR_EL0, Writeable};

    core::arch::global_asm!(include_str!("context.s"), options(raw));

    unsafe extern "C" {
        fn context_switch(from: *mut Context, to: *const Context);
        fn context_first_step();
        fn context_enter_user(frame: *const TrapFrame, stack_top: u64) -> !;
        fn fp_save(state: *mut FpState);
        fn fp_restore(state: *const FpState);
    }

    /// Saves the running thread into `from` and goes on with `to`. Returns when something switches to `from`,
    /// perhaps on another CPU.
    ///
    /// # Safety
    /// Interrupts are masked. `to` was saved by `switch` or made by [`Context::new`], its stack is intact and
    /// nobody runs on it, and it is used once. Both stay valid until then, across CPUs by the caller's lock.
    pub unsafe fn switch(from: *mut Context, to: *const Context) {
        // SAFETY: the caller's promise.
        unsafe { context_switch(from, to) }
    }

    /// Leaves the kernel for the program in `frame`. The thread's next exception finds an empty stack below
    /// `stack_top`.
    ///
    /// # Safety
    /// `frame` describes EL0, a program's tables are installed, its FP state is restored. `stack_top` is the
    /// 16-byte aligned top of the running thread's stack; nothing on it is needed again.
    pub unsafe fn enter_user(frame: &TrapFrame, stack_top: KernelVa) -> ! {
        // SAFETY: the caller's promise; a frame on this very stack is read before anything is pushed.
        unsafe { context_enter_user(frame, stack_top.raw()) }
    }

    pub(super) fn first_step() -> u64 {
        context_first_step as *const () as u64
    }

    pub(super) fn save_fp(state: &mut FpState) {
        // SAFETY: `state` has the layout that the assembly writes.
        unsafe { fp_save(state) }
    }

    pub(super) fn restore_fp(state: &FpState) {
        // SAFETY: `state` has the layout that the assembly reads; the kernel itself uses none of these registers.
        unsafe { fp_restore(state) }
    }

    pub(super) fn tpidr_el0() -> u64 {
        TPIDR_EL0.get()
    }

    pub(super) fn set_tpidr_el0(value: u64) {
        TPIDR_EL0.set(value);
    }
}

/// A host changes nothing: it has no other context to run.
#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::exception::TrapFrame;

    /// Does nothing on a host.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn switch(_: *mut Context, _: *const Context) {}

    /// Panics on a host.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn enter_user(frame: &TrapFrame, _: KernelVa) -> ! {
        panic!("no EL0 on a host to enter at {:#x}", frame.elr)
    }

    pub(super) fn first_step() -> u64 {
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
