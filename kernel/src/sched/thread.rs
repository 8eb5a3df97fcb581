//! A thread: its kernel stack, its saved registers and its wait state.

use crate::memory::stack::KernelStack;
use crate::sync::SpinLock;
use addr::KernelVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::context::Context;
use arch::exception::UserFrame;
use core::any::Any;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// No memory for another thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// The user side of a thread: the register state that the kernel does not use, and the process.
pub trait UserThread: Any + Send + Sync {
    /// Saves the registers that only user space uses. Called on the CPU that switches from the thread, under
    /// the scheduler's lock.
    fn save(&self);
    /// Restores the registers and installs the address space. Called on the CPU that switches to the thread,
    /// under the scheduler's lock.
    fn restore(&self);
}

/// Enters user space with the registers in the frame; the address is the top of the thread's kernel stack.
///
/// # Safety
/// The address must be the top of the running thread's stack, and nothing on the stack may be live.
pub type EnterUser = unsafe fn(UserFrame, KernelVa) -> !;

/// A kernel thread, or, with a user side, a thread of a process.
pub struct Thread {
    id: u32,
    name: &'static str,
    user: Option<Arc<dyn UserThread>>,
    stack: SpinLock<Option<KernelStack>>,
    entry: SpinLock<Option<Entry>>,
    /// Written by the CPU that switches from the thread, read by the CPU that switches to it, both under the
    /// scheduler's lock.
    context: UnsafeCell<Context>,
    /// Changed only under the scheduler's lock.
    pub(super) wait_state: WaitState,
    pub(super) cpu_time: CpuTime,
    /// Set when the thread must stop waiting and exit instead of returning to user space.
    interrupted: AtomicBool,
}

/// The entry point of a thread.
pub(super) enum Entry {
    /// Runs a closure in the kernel, and exits.
    Kernel(Box<dyn FnOnce() + Send>),
    /// Enters user space.
    User(Box<UserFrame>, EnterUser),
}

// SAFETY: `context` is the only field that is not `Sync`; it is accessed only under the scheduler's lock (see
// `Thread::context`).
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread with its own stack, which starts with `entry`.
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

    /// The thread that this CPU is already running, on its boot stack.
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
            cpu_time: CpuTime::default(),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Returns the thread's number, unique since boot.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the user side; `None` for a kernel thread.
    pub fn user(&self) -> Option<&dyn UserThread> {
        self.user.as_deref()
    }

    /// Returns the first address above the kernel stack; `None` for a CPU's boot stack.
    pub fn stack_top(&self) -> Option<KernelVa> {
        self.stack.lock().as_ref().map(KernelStack::top)
    }

    /// Returns whether [`interrupt`](super::interrupt) was called: waits fail, and the thread exits instead
    /// of returning to user space.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    pub(super) fn set_interrupted(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    pub(super) fn take_entry(&self) -> Option<Entry> {
        self.entry.lock().take()
    }

    /// Returns the saved registers. The caller must hold the scheduler's lock to access them.
    pub(super) fn context(&self) -> *mut Context {
        self.context.get()
    }

    /// Frees the stack of an exited thread. No CPU may be running on it.
    pub(super) fn free_stack(&self) {
        let stack = self.stack.lock().take();
        drop(stack);
    }
}

/// The time for which a thread ran, in counter ticks. Accessed only under the scheduler's lock.
#[derive(Default)]
pub(super) struct CpuTime {
    /// Without the current run.
    total: AtomicU64,
    /// The start of the current run, or 0.
    since: AtomicU64,
}

impl CpuTime {
    pub(super) fn start(&self, now: u64) {
        self.since.store(now, Ordering::Relaxed);
    }

    pub(super) fn stop(&self, now: u64) {
        self.total.store(self.get(now), Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
    }

    pub(super) fn get(&self, now: u64) -> u64 {
        let since = self.since.load(Ordering::Relaxed);
        // Another CPU may have read its counter a moment later.
        let running = if since == 0 { 0 } else { now.saturating_sub(since) };
        self.total.load(Ordering::Relaxed) + running
    }
}

/// Whether a thread is runnable, sleeping or exited, and whether a wakeup is pending, so that none is lost.
pub(super) struct WaitState(AtomicU8);

const RUNNABLE: u8 = 0;
const WAKEUP_PENDING: u8 = 1;
const SLEEPING: u8 = 2;
const EXITED: u8 = 3;

impl WaitState {
    const fn new() -> Self {
        Self(AtomicU8::new(RUNNABLE))
    }

    /// Marks the thread sleeping. Returns `false` if a wakeup was pending: the thread must not block.
    pub(super) fn sleep(&self) -> bool {
        let pending = self.0.swap(SLEEPING, Ordering::Relaxed) == WAKEUP_PENDING;
        if pending {
            self.0.store(RUNNABLE, Ordering::Relaxed);
        }
        !pending
    }

    /// Wakes the thread. Returns `true` if it was sleeping and must be added to the run queue; else the
    /// wakeup is pending.
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
    fn wakeup_before_the_wait_is_not_lost() {
        let wait_state = WaitState::new();
        assert!(!wait_state.wake(), "not sleeping: not to be queued");
        assert!(!wait_state.sleep(), "a wakeup is pending: must not block");
        assert!(wait_state.sleep(), "the pending wakeup is consumed");
        assert!(!wait_state.is_runnable());
        assert!(wait_state.wake(), "sleeping: to be queued");
        assert!(wait_state.is_runnable() && wait_state.sleep());
    }

    #[test]
    fn cpu_time_is_the_sum_of_the_runs() {
        let time = CpuTime::default();
        time.start(100);
        assert_eq!(time.get(130), 30, "running");
        time.stop(150);
        assert_eq!(time.get(900), 50, "not running");
        time.start(1000);
        assert_eq!((time.get(1007), time.get(999)), (57, 50));
    }

    #[test]
    fn exited_thread_is_not_woken() {
        let wait_state = WaitState::new();
        wait_state.exit();
        assert!(!wait_state.wake() && !wait_state.is_runnable() && wait_state.has_exited());
    }
}
