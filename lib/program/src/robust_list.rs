//! Robust futexes: the locks that a thread holds when it exits (Linux
//! `Documentation/locking/robust-futexes.rst`).
//!
//! The list is in the program's memory, which may contain anything: the walk is bounded, and ends at the
//! first fault.

use abi::futex::{FUTEX_OWNER_DIED as OWNER_DIED, FUTEX_TID_MASK as TID_MASK, FUTEX_WAITERS as WAITERS};
use addr::{Address, UserVa};

/// The maximum number of locks that are released (Linux `ROBUST_LIST_LIMIT`); the list may be circular.
const ENTRIES_MAX: usize = 2048;
/// Bit 0 of a pointer to an entry: a futex with priority inheritance, whose waiters the kernel does not wake.
const PRIORITY_INHERITANCE: u64 = 1;
/// Offsets in `struct robust_list_head`, after the pointer to the first entry.
const FUTEX_OFFSET: u64 = 8;
const LIST_OP_PENDING: u64 = 16;

/// The memory of the program.
pub trait FutexMemory {
    /// Reads the 64-bit word at `at`; `None` after a fault.
    fn load_u64(&mut self, at: UserVa) -> Option<u64>;
    /// Reads the 32-bit word at `at`; `None` after a fault.
    fn load_u32(&mut self, at: UserVa) -> Option<u32>;
    /// Replaces the word at `at` by `new` if it is `expected`, and returns the old one; `None` after a fault.
    fn compare_exchange_u32(&mut self, at: UserVa, expected: u32, new: u32) -> Option<u32>;
    /// Wakes one waiter.
    fn wake_one(&mut self, at: UserVa);
}

/// An entry of the list.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RobustEntry {
    at: u64,
    priority_inheritance: bool,
}

impl RobustEntry {
    fn new(pointer: u64) -> Self {
        Self {
            at: pointer & !PRIORITY_INHERITANCE,
            priority_inheritance: pointer & PRIORITY_INHERITANCE != 0,
        }
    }
}

/// Marks the locks in the list at `head` that `thread` owns as those of a dead owner, and wakes a waiter of
/// each (`exit_robust_list`).
pub fn release_robust_list(memory: &mut impl FutexMemory, head: UserVa, thread: u32) {
    // A list with a fault at its end is released up to there.
    let _ = try_release(memory, head, thread);
}

fn try_release(memory: &mut impl FutexMemory, head: UserVa, thread: u32) -> Option<()> {
    let mut entry = RobustEntry::new(memory.load_u64(head)?);
    let offset = memory.load_u64(head + FUTEX_OFFSET)?;
    let pending = RobustEntry::new(memory.load_u64(head + LIST_OP_PENDING)?);
    let futex = |entry: RobustEntry| UserVa::new(entry.at.wrapping_add(offset));
    let mut walk = || {
        for _ in 0..ENTRIES_MAX {
            if entry.at == head.raw() {
                break;
            }
            // First: after the release another thread may reuse the entry.
            let next = memory.load_u64(UserVa::new(entry.at));
            if entry.at != pending.at {
                release(memory, futex(entry), thread, entry.priority_inheritance, false)?;
            }
            entry = RobustEntry::new(next?);
        }
        Some(())
    };
    let complete = walk();
    if pending.at != 0 {
        release(memory, futex(pending), thread, pending.priority_inheritance, true)?;
    }
    complete
}

/// Releases the lock at `at` if the thread owns it. `pending`: the thread was in the middle of taking or
/// releasing it.
fn release(
    memory: &mut impl FutexMemory,
    at: UserVa,
    thread: u32,
    priority_inheritance: bool,
    pending: bool,
) -> Option<()> {
    if !at.is_aligned(4) {
        return None;
    }
    let mut word = memory.load_u32(at)?;
    // Released already, but the thread exited before it woke the next owner.
    if pending && !priority_inheritance && word & TID_MASK == 0 {
        memory.wake_one(at);
        return Some(());
    }
    while word & TID_MASK == thread {
        match memory.compare_exchange_u32(at, word, word & WAITERS | OWNER_DIED)? {
            old if old == word => {
                if word & WAITERS != 0 && !priority_inheritance {
                    memory.wake_one(at);
                }
                break;
            }
            other => word = other,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const HEAD: u64 = 0x1000;
    const THREAD: u32 = 7;
    /// The futex word comes before the entry.
    const OFFSET: u64 = 16u64.wrapping_neg();

    /// 64-bit words; a missing one faults.
    #[derive(Default)]
    struct FakeUserMemory {
        words: BTreeMap<u64, u64>,
        woken: Vec<u64>,
        /// Words that another thread stores at the next exchange there.
        races: BTreeMap<u64, u32>,
    }

    impl FutexMemory for FakeUserMemory {
        fn load_u64(&mut self, at: UserVa) -> Option<u64> {
            self.words.get(&at.raw()).copied()
        }
        fn load_u32(&mut self, at: UserVa) -> Option<u32> {
            self.load_u64(at).map(|word| word as u32)
        }
        fn compare_exchange_u32(&mut self, at: UserVa, expected: u32, new: u32) -> Option<u32> {
            let word = self.words.get_mut(&at.raw())?;
            if let Some(other) = self.races.remove(&at.raw()) {
                *word = other.into();
            }
            let old = *word as u32;
            if old == expected {
                *word = new.into();
            }
            Some(old)
        }
        fn wake_one(&mut self, at: UserVa) {
            self.woken.push(at.raw());
        }
    }

    /// A list of the entries, each with the futex word 16 bytes before it.
    fn list(entries: &[(u64, u32)], pending: u64) -> FakeUserMemory {
        let mut memory = FakeUserMemory::default();
        let pointers = entries.iter().map(|entry| entry.0).chain([HEAD]);
        let mut at = HEAD;
        for pointer in pointers {
            memory.words.insert(at, pointer);
            at = pointer & !1;
        }
        memory.words.insert(HEAD + 8, OFFSET);
        memory.words.insert(HEAD + 16, pending);
        for &(entry, word) in entries {
            memory.words.insert((entry & !1) - 16, word.into());
        }
        memory
    }

    fn released(mut memory: FakeUserMemory) -> FakeUserMemory {
        release_robust_list(&mut memory, UserVa::new(HEAD), THREAD);
        memory
    }

    fn word(memory: &FakeUserMemory, entry: u64) -> u32 {
        memory.words[&(entry - 16)] as u32
    }

    #[test]
    fn held_locks_get_a_dead_owner_and_one_waiter_is_woken() {
        let memory =
            released(list(&[(0x2020, THREAD), (0x3020, THREAD | WAITERS), (0x4020, 8 | WAITERS)], 0));
        assert_eq!(word(&memory, 0x2020), OWNER_DIED);
        assert_eq!(word(&memory, 0x3020), OWNER_DIED | WAITERS);
        assert_eq!(word(&memory, 0x4020), 8 | WAITERS, "another owner");
        assert_eq!(memory.woken, [0x3010]);
    }

    #[test]
    fn waiters_of_priority_inheritance_are_not_woken() {
        let memory = released(list(&[(0x2020 | 1, THREAD | WAITERS)], 0));
        assert_eq!((word(&memory, 0x2020), memory.woken.len()), (OWNER_DIED | WAITERS, 0));
    }

    #[test]
    fn word_that_changes_meanwhile_is_compared_again() {
        let mut memory = list(&[(0x2020, THREAD)], 0);
        memory.races.insert(0x2010, THREAD | WAITERS);
        let memory = released(memory);
        assert_eq!((word(&memory, 0x2020), &*memory.woken), (OWNER_DIED | WAITERS, &[0x2010][..]));
    }

    #[test]
    fn pending_lock_is_released_last_and_only_once() {
        let memory = released(list(&[(0x2020, THREAD | WAITERS), (0x3020, THREAD | WAITERS)], 0x2020));
        assert_eq!(memory.woken, [0x3010, 0x2010]);
    }

    #[test]
    fn pending_lock_that_is_free_wakes_a_waiter() {
        let mut memory = list(&[], 0x2020);
        memory.words.insert(0x2010, WAITERS.into());
        let memory = released(memory);
        assert_eq!((word(&memory, 0x2020), &*memory.woken), (WAITERS, &[0x2010][..]));
    }

    #[test]
    fn circular_list_ends() {
        let mut memory = list(&[(0x2020, THREAD), (0x3020, THREAD)], 0);
        memory.words.insert(0x3020, 0x2020);
        let memory = released(memory);
        assert_eq!([word(&memory, 0x2020), word(&memory, 0x3020)], [OWNER_DIED; 2]);
    }

    #[test]
    fn list_is_released_up_to_a_fault_or_an_unaligned_word() {
        let mut memory = list(&[(0x2020, THREAD), (0x3020, THREAD)], 0);
        memory.words.remove(&0x2020);
        let memory = released(memory);
        assert_eq!((word(&memory, 0x2020), word(&memory, 0x3020)), (OWNER_DIED, THREAD));
        let memory = released(list(&[(0x2022, THREAD), (0x3020, THREAD)], 0));
        assert_eq!(word(&memory, 0x3020), THREAD);
    }
}
