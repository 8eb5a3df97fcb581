//! Futexes with priority inheritance: the word names the owner, and the kernel passes a lock on to its first
//! waiter. All threads have the same priority, so there is none to inherit.

use super::futex::{Futexes, WaitKind, Waiter, check_word};
use super::task::Task;
use crate::sched::{self, Nanoseconds, Thread};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::futex::{FUTEX_TID_MASK, FUTEX_WAITERS};
use addr::UserVa;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::user_copy::CompareExchange;
use program::LockAttempt;

/// Finds a thread by its id.
pub type FindThread<'a> = &'a dyn Fn(u32) -> Option<Arc<Thread>>;

impl Futexes {
    /// Takes the lock at `at` for the running thread `id`, or waits until an owner passes it on
    /// (`FUTEX_LOCK_PI`); does not wait if `is_try`.
    ///
    /// # Errors
    /// `EDEADLK` if the thread owns it; `ESRCH` if its owner has exited; `EINVAL` if threads wait there
    /// otherwise; `EAGAIN` for `is_try`; those of a wait.
    pub fn lock_pi(
        &self,
        memory: UserMemory<'_>,
        at: UserVa,
        id: u32,
        (deadline, is_try): (Option<Nanoseconds>, bool),
        find: FindThread<'_>,
    ) -> Result<(), Errno> {
        check_word(at)?;
        let thread = sched::current();
        loop {
            let word = memory.load_u32(at)?;
            // Without the lock of the waiters.
            let owner = find(word & FUTEX_TID_MASK);
            let mut waiters = self.lock();
            let recorded = recorded_owner(&waiters, at)?;
            let attempt = program::lock_pi(word, id, recorded)?;
            let (LockAttempt::Acquired(new) | LockAttempt::Owned { word: new, .. }) = attempt;
            if !exchange(memory, at, word, new) {
                drop(waiters);
                populate(memory, at)?;
                continue;
            }
            let LockAttempt::Owned { owner: owner_id, .. } = attempt else { return Ok(()) };
            if recorded.is_none() && !owner.is_some_and(|owner| can_own(&owner)) {
                return Err(Errno::ESRCH);
            }
            if is_try {
                return Err(Errno::EAGAIN);
            }
            let kind = WaitKind::Lock { owner: owner_id };
            waiters.push(Waiter { at, bits: 0, thread: thread.clone(), kind });
            drop(waiters);
            return self.sleep(&thread, deadline).map_err(|(error, _)| error);
        }
    }

    /// Releases the lock at `at`, which the running thread `id` owns, and passes it on to the first waiter
    /// (`FUTEX_UNLOCK_PI`).
    ///
    /// # Errors
    /// `EPERM` if the thread does not own it; `EINVAL` if threads wait there otherwise; `EFAULT`.
    pub fn unlock_pi(&self, memory: UserMemory<'_>, at: UserVa, id: u32) -> Result<(), Errno> {
        check_word(at)?;
        loop {
            let word = memory.load_u32(at)?;
            let mut waiters = self.lock();
            let next = match recorded_owner(&waiters, at)? {
                _ if word & FUTEX_TID_MASK != id => None,
                Some(owner) if owner != id => return Err(Errno::EINVAL),
                _ => first_at(&waiters, at),
            };
            let new = program::unlock_pi(word, id, next.map(|next| waiters[next].id()))?;
            if exchange(memory, at, word, new) {
                next.into_iter().for_each(|next| pass_on(&mut waiters, next));
                return Ok(());
            }
            drop(waiters);
            populate(memory, at)?;
        }
    }

    /// Waits at `at` until a requeue to the lock at `target` and the acquisition of that lock
    /// (`FUTEX_WAIT_REQUEUE_PI`).
    ///
    /// # Errors
    /// As for a wait; `EAGAIN` for a signal after the requeue.
    pub fn wait_requeue_pi(
        &self,
        memory: UserMemory<'_>,
        (at, expected): (UserVa, u32),
        target: UserVa,
        deadline: Option<Nanoseconds>,
    ) -> Result<(), Errno> {
        check_word(at)?;
        check_word(target)?;
        if at == target {
            return Err(Errno::EINVAL);
        }
        let thread = sched::current();
        let kind = WaitKind::Requeue { target };
        self.enqueue(memory, at, expected, Waiter { at, bits: 0, thread: thread.clone(), kind })?;
        self.sleep(&thread, deadline).map_err(|(error, kind)| match (error, kind) {
            (Errno::EINTR, WaitKind::Lock { .. }) => Errno::EAGAIN,
            (error, _) => error,
        })
    }

    /// Gives the lock at `to` to the first waiter at `from` if it is free, and makes up to `moved` others
    /// wait for it (`FUTEX_CMP_REQUEUE_PI`). Returns the number of waiters that left `from`.
    ///
    /// # Errors
    /// `EAGAIN` if the word at `from` is not `expected`; `EINVAL` for a waiter that does not wait for a
    /// requeue to `to`; those of [`lock_pi`](Self::lock_pi).
    pub fn requeue_pi(
        &self,
        memory: UserMemory<'_>,
        (from, expected): (UserVa, u32),
        (to, moved): (UserVa, usize),
        find: FindThread<'_>,
    ) -> Result<usize, Errno> {
        check_word(from)?;
        check_word(to)?;
        if from == to {
            return Err(Errno::EINVAL);
        }
        loop {
            let word = memory.load_u32(to)?;
            let owner = find(word & FUTEX_TID_MASK);
            let mut waiters = self.lock_if_equal(memory, from, expected)?;
            let Some(first) = waiters.iter().position(|waiter| waiter.at == from) else { return Ok(0) };
            let is_target = |kind: WaitKind| matches!(kind, WaitKind::Requeue { target } if target == to);
            if !is_target(waiters[first].kind) {
                return Err(Errno::EINVAL);
            }
            let recorded = recorded_owner(&waiters, to)?;
            let attempt = program::lock_pi(word, waiters[first].id(), recorded)?;
            let others = waiters.iter().filter(|waiter| waiter.at == from).count() - 1;
            let (new, owner_id) = match attempt {
                LockAttempt::Acquired(new) if moved.min(others) > 0 => {
                    (new | FUTEX_WAITERS, waiters[first].id())
                }
                LockAttempt::Acquired(new) => (new, waiters[first].id()),
                LockAttempt::Owned { owner, word } => (word, owner),
            };
            if !exchange(memory, to, word, new) {
                drop(waiters);
                populate(memory, to)?;
                continue;
            }
            let mut left = moved + 1;
            if let LockAttempt::Acquired(_) = attempt {
                let acquired = waiters.remove(first);
                sched::unpark(&acquired.thread);
                left -= 1;
            } else if recorded.is_none() && !owner.is_some_and(|owner| can_own(&owner)) {
                return Err(Errno::ESRCH);
            }
            let mut done = moved + 1 - left;
            for waiter in waiters.iter_mut().filter(|waiter| waiter.at == from).take(left) {
                if !is_target(waiter.kind) {
                    return Err(Errno::EINVAL);
                }
                (waiter.at, waiter.kind) = (to, WaitKind::Lock { owner: owner_id });
                done += 1;
            }
            return Ok(done);
        }
    }

    /// Passes on the locks that the exiting thread `task` owns and others wait for. It owns none afterwards.
    pub fn owner_exits(&self, memory: UserMemory<'_>, task: &Task) {
        loop {
            let mut waiters = self.lock();
            task.set_owns_no_futexes();
            let is_owned =
                |waiter: &Waiter| matches!(waiter.kind, WaitKind::Lock { owner } if owner == task.id());
            let Some(next) = waiters.iter().position(is_owned) else { return };
            let (at, new) = (waiters[next].at, program::inherit_pi(waiters[next].id()));
            let word = memory.try_load_u32(at);
            let is_written = word.is_some_and(|word| exchange(memory, at, word, new));
            if is_written {
                pass_on(&mut waiters, next);
                continue;
            }
            drop(waiters);
            if populate(memory, at).is_err() {
                // The program has unmapped the word: the waiter finds out.
                pass_on(&mut self.lock(), next);
            }
        }
    }
}

/// Returns the owner of the lock at `at` for which threads wait.
///
/// # Errors
/// `EINVAL` if the first of them waits otherwise.
fn recorded_owner(waiters: &[Waiter], at: UserVa) -> Result<Option<u32>, Errno> {
    match first_at(waiters, at).map(|first| waiters[first].kind) {
        None => Ok(None),
        Some(WaitKind::Lock { owner }) => Ok(Some(owner)),
        Some(WaitKind::Wake | WaitKind::Requeue { .. }) => Err(Errno::EINVAL),
    }
}

fn first_at(waiters: &[Waiter], at: UserVa) -> Option<usize> {
    waiters.iter().position(|waiter| waiter.at == at)
}

/// Wakes waiter `next`, which owns its lock now; the others wait for it.
fn pass_on(waiters: &mut Vec<Waiter>, next: usize) {
    let owner = waiters.remove(next);
    for waiter in waiters.iter_mut().filter(|waiter| waiter.at == owner.at) {
        waiter.kind = WaitKind::Lock { owner: owner.id() };
    }
    sched::unpark(&owner.thread);
}

/// Whether the thread has not passed on its locks yet. The waiters are locked.
fn can_own(thread: &Thread) -> bool {
    Task::of(thread).is_some_and(|task| !task.owns_no_futexes())
}

/// Replaces the word at `at` by `new` if it is `old`, and its page is mapped. Handles no page fault: the
/// waiters are locked.
fn exchange(memory: UserMemory<'_>, at: UserVa, old: u32, new: u32) -> bool {
    memory.try_compare_exchange_u32(at, old, new) == Some(CompareExchange::Exchanged)
}

/// Makes the word writable after a failed [`exchange`].
///
/// # Errors
/// `EFAULT`.
fn populate(memory: UserMemory<'_>, at: UserVa) -> Result<(), Errno> {
    let word = memory.load_u32(at)?;
    memory.compare_exchange_u32(at, word, word).map(|_| ())
}
