//! `futex(2)` operations between threads of one process.

/// Waits if the word has the given value.
pub const FUTEX_WAIT: u32 = 0;
/// Wakes up to the given number of waiters.
pub const FUTEX_WAKE: u32 = 1;
/// Wakes some waiters and moves the others to another word.
pub const FUTEX_REQUEUE: u32 = 3;
/// As [`FUTEX_REQUEUE`], if the word has the given value.
pub const FUTEX_CMP_REQUEUE: u32 = 4;
/// Takes a lock with priority inheritance; the timeout is one of CLOCK_REALTIME.
pub const FUTEX_LOCK_PI: u32 = 6;
/// Releases a lock with priority inheritance.
pub const FUTEX_UNLOCK_PI: u32 = 7;
/// Takes a lock with priority inheritance, or fails with `EAGAIN`.
pub const FUTEX_TRYLOCK_PI: u32 = 8;
/// As [`FUTEX_WAIT`] with an absolute timeout and a bit mask.
pub const FUTEX_WAIT_BITSET: u32 = 9;
/// Wakes waiters whose bit mask intersects the given one.
pub const FUTEX_WAKE_BITSET: u32 = 10;
/// Waits for a requeue to a lock with priority inheritance, and for the lock.
pub const FUTEX_WAIT_REQUEUE_PI: u32 = 11;
/// Moves waiters to a lock with priority inheritance, if the word has the given value.
pub const FUTEX_CMP_REQUEUE_PI: u32 = 12;
/// As [`FUTEX_LOCK_PI`], with the clock of the flag.
pub const FUTEX_LOCK_PI2: u32 = 13;
/// Flag: the word is private to the process.
pub const FUTEX_PRIVATE_FLAG: u32 = 128;
/// Flag: the absolute timeout is one of CLOCK_REALTIME, else of CLOCK_MONOTONIC.
pub const FUTEX_CLOCK_REALTIME: u32 = 256;
/// Flag of an operation that wakes: first unlocks the word, and clears the pending entry of the robust list.
pub const FUTEX_ROBUST_UNLOCK: u32 = 512;
/// Flag with [`FUTEX_ROBUST_UNLOCK`]: the pending entry has 32 bits.
pub const FUTEX_ROBUST_LIST32: u32 = 1024;
/// The bit mask that matches every other.
pub const FUTEX_BITSET_MATCH_ANY: u32 = u32::MAX;
/// The futex word of a lock: threads wait.
pub const FUTEX_WAITERS: u32 = 0x8000_0000;
/// The futex word of a lock: the owner exited with the lock held.
pub const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
/// The futex word of a lock: the thread id of the owner.
pub const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The size of `struct robust_list_head`.
pub const ROBUST_LIST_HEAD_BYTES: u64 = 24;
