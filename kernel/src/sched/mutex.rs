//! A mutex for work of any length: its holder runs with interrupts enabled, and other threads sleep.

use super::wait::{WaitError, WaitQueue};
use crate::{debug, percpu};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};

/// The state of a [`Mutex`], apart from the queue of its waiting threads.
///
/// A thread that fails to lock has marked the state contended first, so the next unlock wakes a thread; a
/// woken thread tries again. It follows that no wakeup is lost: while a thread sleeps, the state is contended
/// or a thread is awake that will mark it so.
struct LockState(AtomicU8);

const UNLOCKED: u8 = 0;
const LOCKED: u8 = 1;
/// Locked, and threads may wait.
const CONTENDED: u8 = 2;

impl LockState {
    const fn new() -> Self {
        Self(AtomicU8::new(UNLOCKED))
    }

    /// Locks if no thread holds the lock.
    #[inline]
    fn try_lock(&self) -> bool {
        self.0.compare_exchange(UNLOCKED, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Locks if no thread holds the lock, else makes the holder's [`unlock`](Self::unlock) return true. The
    /// caller is in the wait queue, or was and is removed: other threads may be left in it.
    fn try_lock_contended(&self) -> bool {
        self.0.swap(CONTENDED, Ordering::Acquire) == UNLOCKED
    }

    /// Unlocks. Returns whether the caller must wake a waiting thread.
    #[inline]
    fn unlock(&self) -> bool {
        self.0.swap(UNLOCKED, Ordering::Release) == CONTENDED
    }
}

/// A mutual exclusion lock whose waiting threads sleep. Not recursive, not fair. Must not be locked in
/// interrupt context nor with a [`SpinLock`](crate::sync::SpinLock) held. A CPU that boots spins instead of
/// sleeping. An uncontended lock costs one compare-and-swap.
pub struct Mutex<T> {
    state: LockState,
    waiting: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: `state` excludes concurrent accesses to `value`.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self { state: LockState::new(), waiting: WaitQueue::new(), value: UnsafeCell::new(value) }
    }

    /// Locks, also in a thread of a process that is being terminated.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        check_context();
        while !self.state.try_lock() {
            // An interrupted thread does not sleep, so it yields the CPU to the holder.
            if self.lock_slow_path().is_ok() {
                break;
            }
            super::yield_now();
        }
        MutexGuard(self)
    }

    /// Locks.
    ///
    /// # Errors
    /// [`WaitError::Interrupted`] if the process is being terminated while another thread holds the lock.
    #[inline]
    pub fn lock_killable(&self) -> Result<MutexGuard<'_, T>, WaitError> {
        check_context();
        if !self.state.try_lock() {
            self.lock_slow_path()?;
        }
        Ok(MutexGuard(self))
    }

    #[cold]
    #[inline(never)]
    fn lock_slow_path(&self) -> Result<(), WaitError> {
        if !super::is_running() {
            // This CPU is booting and has no thread to put to sleep. The holder is a thread of another CPU.
            while !self.state.try_lock() {
                arch::cpu::yield_now();
            }
            return Ok(());
        }
        self.waiting.wait_until(None, || self.state.try_lock_contended().then_some(()))
    }

    /// Returns the value; ownership proves that no other reference exists.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Returns the value without locking: `&mut self` proves that no other reference exists.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// A thread that waits for the lock sleeps, which an interrupt handler and the holder of a spin lock must
/// not. Interrupts are masked during all of the boot of a CPU.
#[inline(always)]
fn check_context() {
    if debug::ENABLED {
        assert!(!percpu::in_interrupt(), "a mutex is locked in interrupt context");
        let is_masked = arch::cpu::irqs_masked() && super::is_running();
        assert!(!is_masked, "a mutex is locked with interrupts masked");
    }
}

/// The guard of a [`Mutex`], which its drop unlocks.
pub struct MutexGuard<'a, T>(&'a Mutex<T>);

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.0.state.unlock() {
            self.0.waiting.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    /// The next step of a thread that locks and unlocks once, in the order of `WaitQueue::wait_until`. Every
    /// step is one access of memory that other threads can observe.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum LockStep {
        FastPath,
        Enqueue,
        FirstTry,
        Park,
        Parked,
        Dequeue { is_locked: bool },
        SecondTry,
        Unlock,
        Wake,
        Done,
    }

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Threads {
        state: u8,
        queue: Vec<usize>,
        steps: Vec<LockStep>,
        /// A wakeup is pending: the next park returns immediately.
        is_woken: Vec<bool>,
        is_interrupted: Vec<bool>,
    }

    impl Threads {
        fn new(count: usize) -> Self {
            let steps = [LockStep::FastPath].repeat(count);
            let (is_woken, is_interrupted) = ([false].repeat(count), [false].repeat(count));
            Self { state: UNLOCKED, queue: Vec::new(), steps, is_woken, is_interrupted }
        }

        /// Runs an operation of the real `LockState` on the modelled state.
        fn with<R>(&mut self, operation: impl FnOnce(&LockState) -> R) -> R {
            let state = LockState(AtomicU8::new(self.state));
            let result = operation(&state);
            self.state = state.0.into_inner();
            result
        }

        fn unpark(&mut self, thread: usize) {
            match self.steps[thread] {
                LockStep::Parked => self.steps[thread] = LockStep::Dequeue { is_locked: false },
                _ => self.is_woken[thread] = true,
            }
        }

        /// Runs the next step of `thread`. `false` if it is asleep or done.
        fn run(&mut self, thread: usize) -> bool {
            let step = self.steps[thread];
            self.steps[thread] = match step {
                LockStep::FastPath if self.with(LockState::try_lock) => LockStep::Unlock,
                LockStep::FastPath => LockStep::Enqueue,
                LockStep::Enqueue => {
                    self.queue.push(thread);
                    LockStep::FirstTry
                }
                LockStep::FirstTry if self.with(LockState::try_lock_contended) => {
                    LockStep::Dequeue { is_locked: true }
                }
                LockStep::FirstTry if self.is_interrupted[thread] => LockStep::Dequeue { is_locked: false },
                LockStep::FirstTry => LockStep::Park,
                LockStep::Park if core::mem::take(&mut self.is_woken[thread]) => {
                    LockStep::Dequeue { is_locked: false }
                }
                LockStep::Park => LockStep::Parked,
                LockStep::Dequeue { is_locked } => {
                    if let Some(at) = self.queue.iter().position(|&other| other == thread) {
                        self.queue.swap_remove(at);
                    }
                    if is_locked { LockStep::Unlock } else { LockStep::SecondTry }
                }
                LockStep::SecondTry if self.with(LockState::try_lock_contended) => LockStep::Unlock,
                LockStep::SecondTry if self.is_interrupted[thread] => LockStep::Done,
                LockStep::SecondTry => LockStep::Enqueue,
                LockStep::Unlock if self.with(LockState::unlock) => LockStep::Wake,
                LockStep::Unlock => LockStep::Done,
                LockStep::Wake => {
                    if let Some(&first) = self.queue.first() {
                        self.unpark(first);
                    }
                    LockStep::Done
                }
                LockStep::Parked | LockStep::Done => return false,
            };
            true
        }
    }

    /// Explores all orders of the steps of three threads, two of which may be interrupted at any time.
    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn no_order_of_steps_loses_a_wakeup_or_locks_twice() {
        let mut pending = alloc::vec![Threads::new(3)];
        let mut seen = BTreeSet::new();
        while let Some(threads) = pending.pop() {
            if !seen.insert(threads.clone()) {
                continue;
            }
            let holders = threads
                .steps
                .iter()
                .filter(|step| matches!(step, LockStep::Unlock | LockStep::Dequeue { is_locked: true }));
            assert!(holders.count() <= 1, "two holders: {threads:?}");
            let before = pending.len();
            for thread in 0..3 {
                let mut next = threads.clone();
                if next.run(thread) {
                    pending.push(next);
                }
            }
            let is_stuck = pending.len() == before;
            let all_done = threads.steps.iter().all(|&step| step == LockStep::Done);
            assert!(!is_stuck || all_done, "a wakeup is lost: {threads:?}");
            for thread in 0..2 {
                if !threads.is_interrupted[thread] && threads.steps[thread] != LockStep::Done {
                    let mut next = threads.clone();
                    next.is_interrupted[thread] = true;
                    next.unpark(thread);
                    pending.push(next);
                }
            }
        }
        assert!(seen.len() > 1000, "{} states", seen.len());
    }
}
