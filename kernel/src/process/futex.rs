//! Futexes: threads that sleep until a word of their program's memory is said to have changed (`futex(2)`).
//!
//! No memory is shared between programs but buffers, so a futex is a word of one program, with or without
//! `FUTEX_PRIVATE_FLAG`.

use crate::sched::{self, Nanoseconds, Thread};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::UserVa;
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The sleepers of one program, those that came first before.
pub struct Futexes(SpinLock<Vec<Sleeper>>);

struct Sleeper {
    at: UserVa,
    /// Wakes that have none of these bits do not mean it.
    bits: u32,
    thread: Arc<Thread>,
}

impl Futexes {
    /// Nobody sleeps.
    pub const fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// Makes room for `threads` threads to sleep, so that sleeping and waking need no memory: a program that is told that
    /// there is none has no way on.
    ///
    /// # Errors
    /// There is none now.
    pub fn make_room(&self, threads: usize) -> Result<(), TryReserveError> {
        let mut sleepers = self.0.lock();
        let more = threads.saturating_sub(sleepers.len());
        sleepers.try_reserve(more)
    }

    /// Sleeps until a wake at `at` that meets `bits`, if the word there is `expected` now.
    ///
    /// # Errors
    /// `EAGAIN`: it is not. `ETIMEDOUT`, `EINTR` (the program is being ended), `EFAULT`, `EINVAL`.
    pub fn wait(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
        bits: u32,
        deadline: Option<Nanoseconds>,
    ) -> Result<(), Errno> {
        if bits == 0 || !at.raw().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let thread = sched::current();
        self.enter(memory, at, expected, bits, &thread)?;
        loop {
            sched::park(deadline);
            // Not in the list any more: somebody woke it.
            if !self.is_in(&thread) {
                return Ok(());
            }
            if sched::is_interrupted(&thread) {
                return self.give_up(&thread, Errno::EINTR);
            }
            if deadline.is_some_and(|deadline| sched::time::now() >= deadline) {
                return self.give_up(&thread, Errno::ETIMEDOUT);
            }
        }
    }

    /// Goes into the list if the word is as expected. Both under the lock: a wake comes before, and then the word has
    /// changed, or after, and then the thread is in the list.
    fn enter(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        expected: u32,
        bits: u32,
        thread: &Arc<Thread>,
    ) -> Result<(), Errno> {
        loop {
            // Brings the page in, which cannot be done under the lock.
            memory.load_u32(at)?;
            let mut sleepers = self.0.lock();
            match memory.try_load_u32(at) {
                Some(word) if word != expected => return Err(Errno::EAGAIN),
                Some(_) => {
                    debug_assert!(sleepers.len() < sleepers.capacity());
                    sleepers.push(Sleeper { at, bits, thread: thread.clone() });
                    return Ok(());
                }
                None => {}
            }
        }
    }

    /// Wakes up to `count` sleepers at `at` whose bits meet `bits`, and says how many there were.
    pub fn wake(&self, at: UserVa, count: usize, bits: u32) -> usize {
        let mut sleepers = self.0.lock();
        let mut woken = 0;
        sleepers.retain(|sleeper| {
            let meant = woken < count && sleeper.at == at && sleeper.bits & bits != 0;
            if meant {
                woken += 1;
                sched::unpark(&sleeper.thread);
            }
            !meant
        });
        woken
    }

    /// Wakes up to `wake` sleepers at `from`, and lets up to `move_` others sleep at `to` from now on. `expected`: only
    /// if that is the word at `from`. Says how many were woken or moved.
    ///
    /// # Errors
    /// `EAGAIN`: it is not; `EFAULT`.
    pub fn requeue(
        &self,
        memory: UserMemory<'_>,
        (from, wake): (UserVa, usize),
        (to, moved): (UserVa, usize),
        expected: Option<u32>,
    ) -> Result<usize, Errno> {
        if let Some(expected) = expected
            && memory.load_u32(from)? != expected
        {
            return Err(Errno::EAGAIN);
        }
        let woken = self.wake(from, wake, u32::MAX);
        let mut sleepers = self.0.lock();
        let others = sleepers.iter_mut().filter(|sleeper| sleeper.at == from).take(moved);
        let moved = others.map(|sleeper| sleeper.at = to).count();
        Ok(woken + moved)
    }

    fn is_in(&self, thread: &Arc<Thread>) -> bool {
        self.0.lock().iter().any(|sleeper| Arc::ptr_eq(&sleeper.thread, thread))
    }

    /// Leaves the list; if a wake was faster, that counts.
    fn give_up(&self, thread: &Arc<Thread>, error: Errno) -> Result<(), Errno> {
        let mut sleepers = self.0.lock();
        match sleepers.iter().position(|sleeper| Arc::ptr_eq(&sleeper.thread, thread)) {
            Some(at) => {
                sleepers.remove(at);
                Err(error)
            }
            None => Ok(()),
        }
    }
}

impl Default for Futexes {
    fn default() -> Self {
        Self::new()
    }
}
