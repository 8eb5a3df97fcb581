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
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

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
    /// Whether a signal is pending that the thread does not block.
    fn has_signal(&self) -> bool;
}

/// Enters user space with the registers in the frame; the address is the top of the thread's kernel stack.
///
/// # Safety
/// The address must be the top of the running thread's stack, and nothing on the stack may be live.
pub type EnterUser = unsafe fn(UserFrame, KernelVa) -> !;

/// A request: the thread must stop waiting, and exit instead of returning to user space.
const INTERRUPTED: u8 = 1;
/// A request: a signal may be deliverable, which the thread checks before it returns to user space.
const SIGNALLED: u8 = 2;
/// A request: the thread compares its CPU time with timers each time before it returns to user space.
const TIMED: u8 = 4;
/// A request: the process is stopped; the thread waits before it returns to user space.
const STOPPED: u8 = 8;

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
    /// The requests above: one word, so that a return to user space loads it once.
    requests: AtomicU8,
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
            requests: AtomicU8::new(0),
        }
    }

    /// Returns the thread's number, unique since boot.
    pub fn id(&self) -> u32 {
        self.id
    }

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
        self.requests.load(Ordering::Acquire) & INTERRUPTED != 0
    }

    /// Returns whether an interruptible wait must end: a signal is deliverable, or [`is_interrupted`].
    ///
    /// [`is_interrupted`]: Self::is_interrupted
    pub fn is_signalled(&self) -> bool {
        let requests = self.requests.load(Ordering::Acquire);
        let has_signal = || self.user().is_some_and(UserThread::has_signal);
        // The request alone may be stale: another thread took the signal, or the mask has changed.
        requests & INTERRUPTED != 0 || requests & SIGNALLED != 0 && has_signal()
    }

    /// Returns whether the thread must not return to user space before it looked for signals and timers, or
    /// exited.
    #[inline]
    pub(super) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Returns whether a signal may be deliverable, and clears that. The caller looks for signals then.
    pub fn take_signalled(&self) -> bool {
        self.requests.fetch_and(!SIGNALLED, Ordering::AcqRel) & SIGNALLED != 0
    }

    /// Returns whether timers of CPU time are armed.
    pub fn is_timed(&self) -> bool {
        self.requests.load(Ordering::Relaxed) & TIMED != 0
    }

    /// Sets whether timers of CPU time are armed.
    pub fn set_timed(&self, is_timed: bool) {
        match is_timed {
            true => self.requests.fetch_or(TIMED, Ordering::Relaxed),
            false => self.requests.fetch_and(!TIMED, Ordering::Relaxed),
        };
    }

    /// Returns whether the process is stopped.
    pub fn is_stopped(&self) -> bool {
        self.requests.load(Ordering::Acquire) & STOPPED != 0
    }

    /// Sets whether the process is stopped. [`notify`](super::notify) makes a running thread look.
    pub fn set_stopped(&self, is_stopped: bool) {
        match is_stopped {
            true => self.requests.fetch_or(STOPPED, Ordering::Release),
            false => self.requests.fetch_and(!STOPPED, Ordering::Release),
        };
    }

    /// Makes the thread look for signals before it returns to user space.
    pub(super) fn set_signalled(&self) {
        self.requests.fetch_or(SIGNALLED, Ordering::Release);
    }

    pub(super) fn set_interrupted(&self) {
        self.requests.fetch_or(INTERRUPTED, Ordering::Release);
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
