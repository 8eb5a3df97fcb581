//! The word of a futex with priority inheritance: the thread id of the owner, and two flags. The program
//! takes and releases a lock without waiters itself; the kernel changes the word otherwise.

use abi::Errno;
use abi::futex::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};

/// The effect of an attempt to take a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockAttempt {
    /// The caller owns the lock with this word.
    Acquired(u32),
    /// The caller must wait for this owner, with this word.
    Owned {
        /// The thread id.
        owner: u32,
        /// The word.
        word: u32,
    },
}

/// Attempts to take the lock with this word for `thread`. `recorded` is the owner for which others wait.
///
/// # Errors
/// `EDEADLK` if the thread owns it; `EINVAL` if the program changed the owner while others wait.
pub fn lock(word: u32, thread: u32, recorded: Option<u32>) -> Result<LockAttempt, Errno> {
    let owner = word & FUTEX_TID_MASK;
    match recorded {
        _ if owner == thread => Err(Errno::EDEADLK),
        // Between the release by a dead owner and its successor.
        Some(recorded) if owner == 0 && word & FUTEX_OWNER_DIED != 0 => {
            Ok(LockAttempt::Owned { owner: recorded, word: word | FUTEX_WAITERS })
        }
        Some(recorded) if owner != recorded => Err(Errno::EINVAL),
        None if owner == 0 => Ok(LockAttempt::Acquired(thread | word & FUTEX_OWNER_DIED)),
        _ => Ok(LockAttempt::Owned { owner, word: word | FUTEX_WAITERS }),
    }
}

/// Returns the word after `thread` has released the lock: for the waiter `next`, if there is one.
///
/// # Errors
/// `EPERM` if the thread does not own it.
pub fn unlock(word: u32, thread: u32, next: Option<u32>) -> Result<u32, Errno> {
    if word & FUTEX_TID_MASK != thread {
        return Err(Errno::EPERM);
    }
    Ok(next.map_or(0, |next| next | FUTEX_WAITERS))
}

/// Returns the word after the death of the owner, for the waiter `next`.
pub fn inherit(next: u32) -> u32 {
    next | FUTEX_WAITERS | FUTEX_OWNER_DIED
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 5;
    const OTHER: u32 = 6;

    #[test]
    fn free_lock_is_acquired_and_another_is_marked() {
        assert_eq!(lock(0, OWNER, None), Ok(LockAttempt::Acquired(OWNER)));
        let died = LockAttempt::Acquired(OWNER | FUTEX_OWNER_DIED);
        assert_eq!(lock(FUTEX_OWNER_DIED | FUTEX_WAITERS, OWNER, None), Ok(died));
        let owned = LockAttempt::Owned { owner: OWNER, word: OWNER | FUTEX_WAITERS };
        assert_eq!(lock(OWNER, OTHER, None), Ok(owned));
        assert_eq!(lock(OWNER | FUTEX_WAITERS, OTHER, Some(OWNER)), Ok(owned));
        assert_eq!(lock(OWNER | FUTEX_WAITERS, OWNER, Some(OWNER)), Err(Errno::EDEADLK));
    }

    #[test]
    fn owner_in_the_word_is_that_for_which_others_wait() {
        assert_eq!(lock(7, OTHER, Some(OWNER)), Err(Errno::EINVAL));
        assert_eq!(lock(0, OTHER, Some(OWNER)), Err(Errno::EINVAL));
        let word = FUTEX_OWNER_DIED | FUTEX_WAITERS;
        assert_eq!(lock(word, OTHER, Some(OWNER)), Ok(LockAttempt::Owned { owner: OWNER, word }));
    }

    #[test]
    fn released_lock_belongs_to_the_next_waiter() {
        assert_eq!(unlock(OWNER, OWNER, None), Ok(0));
        assert_eq!(unlock(OWNER | FUTEX_WAITERS, OWNER, Some(OTHER)), Ok(OTHER | FUTEX_WAITERS));
        assert_eq!([unlock(0, OWNER, None), unlock(OTHER, OWNER, Some(7))], [Err(Errno::EPERM); 2]);
        assert_eq!(inherit(OTHER) & FUTEX_TID_MASK, OTHER);
    }
}
