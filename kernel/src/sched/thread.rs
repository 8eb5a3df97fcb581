//! A thread: a kernel stack, the registers it goes on with, and what it is doing.

use crate::memory::stack::KernelStack;
use crate::sync::SpinLock;
use addr::KernelVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::context::Context;
use arch::exception::TrapFrame;
use core::any::Any;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// There is no memory for another thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// The user side of a thread: the state that the kernel does not use itself, and the process behind it.
pub trait UserThread: Any + Send + Sync {
    /// Saves the registers that only user space uses. Called on the CPU that switches away, under the scheduler's lock.
    fn save(&self);
    /// Restores them and installs the address space. Called on the CPU that switches to it, under the scheduler's lock.
    fn restore(&self);
}

/// Enters user space with the registers in the frame; the address is the top of the thread's kernel stack.
///
/// # Safety
/// The frame is one of user space. The address is the top of the running thread's stack, and nothing on it is needed.
pub type EnterUser = unsafe fn(TrapFrame, KernelVa) -> !;

/// A kernel thread, or a thread of a process if it has a user side.
pub struct Thread {
    id: u32,
    name: &'static str,
    user: Option<Arc<dyn UserThread>>,
    stack: SpinLock<Option<KernelStack>>,
    entry: SpinLock<Option<Entry>>,
    /// Written by the CPU that switches away from the thread, read by the one that switches to it, both under the
    /// scheduler's lock.
    context: UnsafeCell<Context>,
    /// Changed under the scheduler's lock alone.
    pub(super) wait_state: WaitState,
    /// The thread must stop waiting and end before it would return to user space.
    interrupted: AtomicBool,
}

/// What a thread does first.
pub(super) enum Entry {
    /// It runs this in the kernel, and ends.
    Kernel(Box<dyn FnOnce() + Send>),
    /// It enters user space.
    User(Box<TrapFrame>, EnterUser),
}

// SAFETY: `context` is the only field that is not `Sync`; it is touched under the scheduler's lock alone (see
// `Thread::context`).
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread with a stack of its own, that starts with `entry`.
    pub(super) fn new(
        name: &'static str,
        user: Option<Arc<dyn UserThread>>,
        entry: Entry,
        start: extern "C" fn(usize) -> !,
    ) -> Result<Self, OutOfMemory> {
        let stack = KernelStack::new().map_err(|_| OutOfMemory)?;
        let context = Context::new(stack.top(), start, 0);
        let (stack, entry) = (SpinLock::new(Some(stack)), SpinLock::new(Some(entry)));
        Ok(Self { stack, entry, context: UnsafeCell::new(context), ..Self::on_boot_stack(name, user) })
    }

    /// The thread that this CPU is already running, on the stack it booted with.
    pub(super) fn on_boot_stack(name: &'static str, user: Option<Arc<dyn UserThread>>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            user,
            stack: SpinLock::new(None),
            entry: SpinLock::new(None),
            context: UnsafeCell::new(Context::empty()),
            wait_state: WaitState::new(),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Its number, unique since the boot: a program's `gettid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it is for.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The user side; `None` for a kernel thread.
    pub fn user(&self) -> Option<&dyn UserThread> {
        self.user.as_deref()
    }

    /// The first address above its kernel stack; `None` for a CPU's boot stack.
    pub fn stack_top(&self) -> Option<KernelVa> {
        self.stack.lock().as_ref().map(KernelStack::top)
    }

    /// Whether [`interrupt`](super::interrupt) was called: waits fail, and the thread ends on its way to user space.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    pub(super) fn set_interrupted(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    pub(super) fn take_entry(&self) -> Option<Entry> {
        self.entry.lock().take()
    }

    /// Where its registers are saved. Only for who holds the scheduler's lock.
    pub(super) fn context(&self) -> *mut Context {
        self.context.get()
    }

    /// Frees the stack of a thread that has ended; nothing runs on it.
    pub(super) fn free_stack(&self) {
        let stack = self.stack.lock().take();
        drop(stack);
    }
}

/// Whether a thread waits, and whether somebody has called it before it did.
pub(super) struct WaitState(AtomicU8);

const RUNNABLE: u8 = 0;
const WAKEUP_PENDING: u8 = 1;
const SLEEPING: u8 = 2;
const EXITED: u8 = 3;

impl WaitState {
    const fn new() -> Self {
        Self(AtomicU8::new(RUNNABLE))
    }

    /// The thread is about to wait. `false`: somebody has called it, it must not.
    pub(super) fn sleep(&self) -> bool {
        let pending = self.0.swap(SLEEPING, Ordering::Relaxed) == WAKEUP_PENDING;
        if pending {
            self.0.store(RUNNABLE, Ordering::Relaxed);
        }
        !pending
    }

    /// Somebody calls the thread. `true`: it waited and has to be made ready.
    pub(super) fn wake(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            SLEEPING => self.0.store(RUNNABLE, Ordering::Relaxed),
            EXITED => return false,
            _ => {
                self.0.store(WAKEUP_PENDING, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    pub(super) fn exit(&self) {
        self.0.store(EXITED, Ordering::Relaxed);
    }

    pub(super) fn is_runnable(&self) -> bool {
        self.0.load(Ordering::Relaxed) < SLEEPING
    }

    pub(super) fn has_exited(&self) -> bool {
        self.0.load(Ordering::Relaxed) == EXITED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_before_the_wait_is_not_lost() {
        let wait_state = WaitState::new();
        assert!(!wait_state.wake(), "not waiting, so nothing to make ready");
        assert!(!wait_state.sleep(), "called before: must not wait");
        assert!(wait_state.sleep(), "the call is used up");
        assert!(!wait_state.is_runnable());
        assert!(wait_state.wake(), "waiting: make it ready");
        assert!(wait_state.is_runnable() && wait_state.sleep());
    }

    #[test]
    fn nobody_wakes_the_dead() {
        let wait_state = WaitState::new();
        wait_state.exit();
        assert!(!wait_state.wake() && !wait_state.is_runnable() && wait_state.has_exited());
    }
}
