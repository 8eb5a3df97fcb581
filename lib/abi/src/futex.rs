//! `futex(2)` operations between threads of one process.

/// Waits if the word has the given value.
pub const FUTEX_WAIT: u32 = 0;
/// Wakes up to the given number of waiters.
pub const FUTEX_WAKE: u32 = 1;
/// Wakes some waiters and moves the others to another word.
pub const FUTEX_REQUEUE: u32 = 3;
/// As [`FUTEX_REQUEUE`], if the word has the given value.
pub const FUTEX_CMP_REQUEUE: u32 = 4;
/// As [`FUTEX_WAIT`] with an absolute timeout and a bit mask.
pub const FUTEX_WAIT_BITSET: u32 = 9;
/// Wakes waiters whose bit mask intersects the given one.
pub const FUTEX_WAKE_BITSET: u32 = 10;
/// Flag: the word is private to the process.
pub const FUTEX_PRIVATE_FLAG: u32 = 128;
/// Flag: the absolute timeout is one of CLOCK_REALTIME, else of CLOCK_MONOTONIC.
pub const FUTEX_CLOCK_REALTIME: u32 = 256;
/// The bit mask that matches every other.
pub const FUTEX_BITSET_MATCH_ANY: u32 = u32::MAX;
/// The size of `struct robust_list_head`.
pub const ROBUST_LIST_HEAD_BYTES: u64 = 24;
