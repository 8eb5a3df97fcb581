//! Futexes (`futex(2)`): wait, wake and requeue.
//!
//! A futex belongs to one address space, with or without `FUTEX_PRIVATE_FLAG`: a word in shared memory has a
//! list of waiters per address space.

use super::task::Task;
use crate::memory::heap;
use crate::sched::{self, Nanoseconds, Thread};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::{Address, UserVa};
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The waiting threads of an address space, in the order of their arrival.
pub struct Futexes {
    waiters: SpinLock<Vec<Waiter>>,
    /// The threads that can wait. Changed with `waiters` locked.
    threads: AtomicUsize,
}

pub(super) struct Waiter {
    pub at: UserVa,
    /// A wake must have one of these bits.
    pub bits: u32,
    pub thread: Arc<Thread>,
    pub kind: WaitKind,
}

impl Waiter {
    /// Returns the id of the thread.
    pub fn id(&self) -> u32 {
        Task::of(&self.thread).map_or(0, Task::id)
    }
}

/// The event that a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitKind {
    /// A wake.
    Wake,
    /// A requeue to the lock at this address.
    Requeue { target: UserVa },
    /// The lock at its address, which this thread owns.
    Lock { owner: u32 },
}

impl Futexes {
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let futexes = Self { waiters: SpinLock::new(Vec::new()), threads: AtomicUsize::new(0) };
        heap::try_arc(futexes).ok_or(Errno::ENOMEM)
    }

    /// Reserves memory for one more waiting thread, so that wait and wake do not allocate: a program cannot
    /// handle `ENOMEM` from them.
    ///
    /// # Errors
    /// No memory.
    pub fn reserve(&self) -> Result<(), TryReserveError> {
        let mut waiters = self.waiters.lock();
        let threads = self.threads.load(Relaxed) + 1;
        let more = threads.saturating_sub(waiters.len());
        waiters.try_reserve(more)?;
        self.threads.store(threads, Relaxed);
        Ok(())
    }

    /// Releases the memory for a thread that does not wait any more.
    pub fn release(&self) {
        let _waiters = self.waiters.lock();
        self.threads.fetch_sub(1, Relaxed);
    }

    pub(super) fn lock(&self) -> SpinLockGuard<'_, Vec<Waiter>> {
        self.waiters.lock()
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
        let waiter = Waiter { at, bits, thread: thread.clone(), kind: WaitKind::Wake };
        self.enqueue(memory, at, expected, waiter)?;
        self.sleep(&thread, deadline).map_err(|(error, _)| error)
    }

    /// Sleeps until the running thread is dequeued.
    ///
    /// # Errors
    /// `ETIMEDOUT`, `EINTR`, and the event that it still waited for. It is not queued any more.
    pub(super) fn sleep(
        &self,
        thread: &Arc<Thread>,
        deadline: Option<Nanoseconds>,
    ) -> Result<(), (Errno, WaitKind)> {
        while self.is_queued(thread) {
            // Before the first wait too: a wait during the page fault may have taken its wakeup.
            if thread.is_signalled() {
                return self.cancel(thread, Errno::EINTR);
            }
            if deadline.is_some_and(|deadline| sched::time::now() >= deadline) {
                return self.cancel(thread, Errno::ETIMEDOUT);
            }
            sched::park(deadline);
        }
        Ok(())
    }

    pub(super) fn enqueue(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
        waiter: Waiter,
    ) -> Result<(), Errno> {
        let mut waiters = self.lock_if_equal(memory, at, expected)?;
        debug_assert!(waiters.len() < waiters.capacity());
        waiters.push(waiter);
        Ok(())
    }

    /// Locks the waiters if the futex word at `at` is `expected`. The comparison is under the lock, against
    /// lost wakeups: a wake before it changed the word, and a wake after it finds the caller's changes.
    pub(super) fn lock_if_equal(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
    ) -> Result<SpinLockGuard<'_, Vec<Waiter>>, Errno> {
        loop {
            // Populates the page: a page fault is not allowed under the lock.
            memory.load_u32(at)?;
            let waiters = self.waiters.lock();
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
        wake_first(&mut self.waiters.lock(), at, count, bits)
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
            None => self.waiters.lock(),
        };
        if waiters.iter().any(|waiter| waiter.at == from && waiter.kind != WaitKind::Wake) {
            return Err(Errno::EINVAL);
        }
        let woken = wake_first(&mut waiters, from, wake, u32::MAX)?;
        let others = waiters.iter_mut().filter(|waiter| waiter.at == from).take(moved);
        let moved = others.map(|waiter| waiter.at = to).count();
        Ok(woken + moved)
    }

    fn is_queued(&self, thread: &Arc<Thread>) -> bool {
        self.waiters.lock().iter().any(|waiter| Arc::ptr_eq(&waiter.thread, thread))
    }

    /// Dequeues the thread and returns `error`, or `Ok` if a wake came first.
    fn cancel(&self, thread: &Arc<Thread>, error: Errno) -> Result<(), (Errno, WaitKind)> {
        let mut waiters = self.waiters.lock();
        match waiters.iter().position(|waiter| Arc::ptr_eq(&waiter.thread, thread)) {
            Some(at) => Err((error, waiters.remove(at).kind)),
            None => Ok(()),
        }
    }
}

/// # Errors
/// `EINVAL` for an unaligned word, `EFAULT` for one that is not in user memory.
pub(super) fn check_word(at: UserVa) -> Result<(), Errno> {
    if !at.is_aligned(4) {
        return Err(Errno::EINVAL);
    }
    if at.raw() < program::USER_END { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Wakes up to `count` waiters at `at` with one of `bits`, and returns their number.
///
/// # Errors
/// `EINVAL` if a thread waits there for a lock.
fn wake_first(waiters: &mut Vec<Waiter>, at: UserVa, count: usize, bits: u32) -> Result<usize, Errno> {
    let (mut woken, mut is_lock) = (0, false);
    waiters.retain(|waiter| {
        let is_next = woken < count && waiter.at == at && !is_lock;
        is_lock |= is_next && waiter.kind != WaitKind::Wake;
        let is_woken = is_next && !is_lock && waiter.bits & bits != 0;
        if is_woken {
            woken += 1;
            sched::unpark(&waiter.thread);
        }
        !is_woken
    });
    if is_lock { Err(Errno::EINVAL) } else { Ok(woken) }
}
