//! Futexes (`futex(2)`): wait, wake and requeue.
//!
//! Processes share no memory other than buffers, so a futex belongs to one process, with or without
//! `FUTEX_PRIVATE_FLAG`.

use crate::sched::{self, Nanoseconds, Thread};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::{Address, UserVa};
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The waiting threads of a process, in the order of their arrival.
pub struct Futexes(SpinLock<Vec<Waiter>>);

struct Waiter {
    at: UserVa,
    /// A wake must have one of these bits.
    bits: u32,
    thread: Arc<Thread>,
}

impl Futexes {
    pub const fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// Reserves memory for `threads` waiters, so that wait and wake do not allocate: a program cannot handle
    /// `ENOMEM` from them.
    ///
    /// # Errors
    /// No memory.
    pub fn reserve(&self, threads: usize) -> Result<(), TryReserveError> {
        let mut waiters = self.0.lock();
        let more = threads.saturating_sub(waiters.len());
        waiters.try_reserve(more)
    }

    /// Waits for a wake at `at` with one of `bits`, if the futex word is `expected`.
    ///
    /// # Errors
    /// `EAGAIN` if it is not, `ETIMEDOUT`, `EINTR` for a signal or if the process is terminating, `EFAULT`,
    /// `EINVAL`.
    pub fn wait(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
        bits: u32,
        deadline: Option<Nanoseconds>,
    ) -> Result<(), Errno> {
        check_word(at)?;
        if bits == 0 {
            return Err(Errno::EINVAL);
        }
        let thread = sched::current();
        self.enqueue(memory, at, expected, bits, &thread)?;
        // Dequeued by a wake.
        while self.is_queued(&thread) {
            // Before the first wait too: a wait during the page fault may have taken its wakeup.
            if thread.is_signalled() {
                return self.cancel(&thread, Errno::EINTR);
            }
            if deadline.is_some_and(|deadline| sched::time::now() >= deadline) {
                return self.cancel(&thread, Errno::ETIMEDOUT);
            }
            sched::park(deadline);
        }
        Ok(())
    }

    fn enqueue(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
        bits: u32,
        thread: &Arc<Thread>,
    ) -> Result<(), Errno> {
        let mut waiters = self.lock_if_equal(memory, at, expected)?;
        debug_assert!(waiters.len() < waiters.capacity());
        waiters.push(Waiter { at, bits, thread: thread.clone() });
        Ok(())
    }

    /// Locks the waiters if the futex word at `at` is `expected`. The comparison is under the lock, against
    /// lost wakeups: a wake before it changed the word, and a wake after it finds the caller's changes.
    fn lock_if_equal(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
    ) -> Result<SpinLockGuard<'_, Vec<Waiter>>, Errno> {
        loop {
            // Populates the page: a page fault is not allowed under the lock.
            memory.load_u32(at)?;
            let waiters = self.0.lock();
            match memory.try_load_u32(at) {
                Some(word) if word == expected => return Ok(waiters),
                Some(_) => return Err(Errno::EAGAIN),
                None => {}
            }
        }
    }

    /// Wakes up to `count` waiters at `at` with one of `bits`, and returns their number.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    pub fn wake(&self, at: UserVa, count: usize, bits: u32) -> Result<usize, Errno> {
        check_word(at)?;
        if bits == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(wake_first(&mut self.0.lock(), at, count, bits))
    }

    /// Wakes up to `wake` waiters at `from`, and moves up to `moved` others to `to`. With `expected` the
    /// futex word at `from` must have that value; no wait or wake comes between the comparison and the moves.
    /// Returns the number of waiters woken or moved.
    ///
    /// # Errors
    /// `EAGAIN` if the word differs, `EFAULT`, `EINVAL`.
    pub fn requeue(
        &self,
        memory: UserMemory<'_>,
        (from, wake): (UserVa, usize),
        (to, moved): (UserVa, usize),
        expected: Option<u32>,
    ) -> Result<usize, Errno> {
        check_word(from)?;
        check_word(to)?;
        let mut waiters = match expected {
            Some(expected) => self.lock_if_equal(memory, from, expected)?,
            None => self.0.lock(),
        };
        let woken = wake_first(&mut waiters, from, wake, u32::MAX);
        let others = waiters.iter_mut().filter(|waiter| waiter.at == from).take(moved);
        let moved = others.map(|waiter| waiter.at = to).count();
        Ok(woken + moved)
    }

    fn is_queued(&self, thread: &Arc<Thread>) -> bool {
        self.0.lock().iter().any(|waiter| Arc::ptr_eq(&waiter.thread, thread))
    }

    /// Dequeues the thread and returns `error`, or `Ok` if a wake came first.
    fn cancel(&self, thread: &Arc<Thread>, error: Errno) -> Result<(), Errno> {
        let mut waiters = self.0.lock();
        match waiters.iter().position(|waiter| Arc::ptr_eq(&waiter.thread, thread)) {
            Some(at) => {
                waiters.remove(at);
                Err(error)
            }
            None => Ok(()),
        }
    }
}

/// # Errors
/// `EINVAL` for an unaligned word, `EFAULT` for one that is not in user memory.
fn check_word(at: UserVa) -> Result<(), Errno> {
    if !at.is_aligned(4) {
        return Err(Errno::EINVAL);
    }
    if at.raw() < program::USER_END { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Wakes up to `count` waiters at `at` with one of `bits`, and returns their number.
fn wake_first(waiters: &mut Vec<Waiter>, at: UserVa, count: usize, bits: u32) -> usize {
    let mut woken = 0;
    waiters.retain(|waiter| {
        let is_woken = woken < count && waiter.at == at && waiter.bits & bits != 0;
        if is_woken {
            woken += 1;
            sched::unpark(&waiter.thread);
        }
        !is_woken
    });
    woken
}

impl Default for Futexes {
    fn default() -> Self {
        Self::new()
    }
}
