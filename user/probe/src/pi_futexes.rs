//! Futexes with priority inheritance by raw system calls.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::futexes::futex;
use crate::raw;
use crate::result::{Failure, ProbeResult, ensure};

const WAITERS: u32 = libc::FUTEX_WAITERS;
const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;
/// The owner of no thread.
const NO_THREAD: u32 = 0x3fff_fff0;

static LOCK: AtomicU32 = AtomicU32::new(0);
static CONDITION: AtomicU32 = AtomicU32::new(0);

fn error(errno: i32) -> i64 {
    -i64::from(errno)
}

fn id() -> u32 {
    // SAFETY: no pointer.
    unsafe { raw::call(libc::SYS_gettid, [0; 6]) as u32 }
}

fn lock(operation: i32, timeout: Option<[i64; 2]>) -> i64 {
    let mut timeout = timeout;
    let timeout = timeout.as_mut().map_or(0, |time| std::ptr::from_mut(time).expose_provenance() as u64);
    futex(&LOCK, operation, 0, timeout, &LOCK, 0)
}

fn take() -> i64 {
    lock(libc::FUTEX_LOCK_PI, None)
}

fn release() -> i64 {
    lock(libc::FUTEX_UNLOCK_PI, None)
}

fn requeue(wake: u32, moved: u32) -> i64 {
    futex(&CONDITION, libc::FUTEX_CMP_REQUEUE_PI, wake, moved.into(), &LOCK, CONDITION.load(SeqCst))
}

fn expect(what: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{what} returned {result}, not {expected}"))
}

fn expect_word(what: &str, expected: u32) -> ProbeResult {
    let word = LOCK.load(SeqCst);
    ensure(word == expected, || format!("{what}: the word is {word:#x}, not {expected:#x}"))
}

fn until(what: &str, holds: impl Fn() -> bool) -> ProbeResult {
    let started = Instant::now();
    while !holds() {
        ensure(started.elapsed() < Duration::from_secs(20), || format!("{what}: not in 20 s"))?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T, Failure> {
    thread.join().map_err(|_| "a thread panicked".into())
}

/// The word names the owner; a waiter owns the lock after it is released.
pub fn owners(_: &[String]) -> ProbeResult {
    LOCK.store(0, SeqCst);
    expect("lock", take(), 0)?;
    expect_word("locked", id())?;
    expect("lock by the owner", take(), error(libc::EDEADLK))?;
    let (tried, released) = joined(thread::spawn(|| (lock(libc::FUTEX_TRYLOCK_PI, None), release())))?;
    expect("trylock by another thread", tried, error(libc::EAGAIN))?;
    expect("unlock by another thread", released, error(libc::EPERM))?;
    expect("unlock", release(), 0)?;
    expect_word("unlocked", 0)?;
    expect("trylock", lock(libc::FUTEX_TRYLOCK_PI, None), 0)?;
    let waiter = thread::spawn(|| {
        let taken = take();
        (taken, LOCK.load(SeqCst), id(), release())
    });
    let own = id();
    until("a thread waits", || LOCK.load(SeqCst) == own | WAITERS)?;
    thread::sleep(Duration::from_millis(20));
    expect("unlock with a waiter", release(), 0)?;
    let (taken, word, waiter, released) = joined(waiter)?;
    expect("the waiter", taken, 0)?;
    ensure(word == waiter | WAITERS, || format!("the word of {waiter} is {word:#x}"))?;
    expect("unlock by the waiter", released, 0)?;
    expect_word("unlocked", 0)
}

/// A lock whose owner exits belongs to its waiter, which learns that.
pub fn exited_owner(_: &[String]) -> ProbeResult {
    LOCK.store(0, SeqCst);
    let owner = thread::spawn(|| {
        let taken = take();
        thread::sleep(Duration::from_millis(60));
        taken
    });
    until("a thread locks", || LOCK.load(SeqCst) != 0)?;
    expect("lock", take(), 0)?;
    expect_word("the owner died", id() | WAITERS | OWNER_DIED)?;
    expect("the owner", joined(owner)?, 0)?;
    expect("unlock", release(), 0)?;
    LOCK.store(NO_THREAD, SeqCst);
    expect("lock of an unknown owner", take(), error(libc::ESRCH))?;
    LOCK.store(0, SeqCst);
    Ok(())
}

/// Locks have timeouts on the real-time clock, and reject other waits at the same word.
pub fn arguments(_: &[String]) -> ProbeResult {
    LOCK.store(0, SeqCst);
    expect("lock", take(), 0)?;
    let timed = joined(thread::spawn(|| {
        let started = Instant::now();
        let past = lock(libc::FUTEX_LOCK_PI, Some([1, 0]));
        // FUTEX_LOCK_PI2, on the monotonic clock.
        let mut now = [0i64; 2];
        let to = std::ptr::from_mut(&mut now).expose_provenance() as u64;
        // SAFETY: writes the time.
        unsafe { raw::call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as u64, to, 0, 0, 0, 0]) };
        let soon = lock(13, Some([now[0] + 1, now[1]]));
        (past, soon, started.elapsed())
    }))?;
    expect("a timeout in the past", timed.0, error(libc::ETIMEDOUT))?;
    expect("a timeout in a second", timed.1, error(libc::ETIMEDOUT))?;
    ensure(timed.2 >= Duration::from_millis(900), || format!("waited for {:?}", timed.2))?;
    let with_clock = lock(libc::FUTEX_LOCK_PI | libc::FUTEX_CLOCK_REALTIME, None);
    expect("FUTEX_LOCK_PI with a clock", with_clock, error(libc::ENOSYS))?;
    expect("requeue that wakes two", requeue(2, 0), error(libc::EINVAL))?;
    expect("requeue without waiters", requeue(1, 0), 0)?;
    let waiter = thread::spawn(|| futex(&CONDITION, libc::FUTEX_WAIT, 0, 0, &CONDITION, 0));
    until("another wait is rejected", || requeue(1, 0) == error(libc::EINVAL))?;
    expect("wake", futex(&CONDITION, libc::FUTEX_WAKE, 1, 0, &CONDITION, 0), 1)?;
    expect("the waiter", joined(waiter)?, 0)?;
    expect("unlock", release(), 0)
}

/// Threads that wait for a condition are moved to the lock, and own it when they return.
pub fn requeues(_: &[String]) -> ProbeResult {
    LOCK.store(0, SeqCst);
    let wait = || {
        let result = futex(&CONDITION, libc::FUTEX_WAIT_REQUEUE_PI, 0, 0, &LOCK, 0);
        let is_owner = LOCK.load(SeqCst) & !(WAITERS | OWNER_DIED) == id();
        (result, is_owner, release())
    };
    for is_locked in [true, false] {
        if is_locked {
            expect("lock", take(), 0)?;
        }
        let threads = [(); 3].map(|()| thread::spawn(wait));
        let mut left = 0;
        let started = Instant::now();
        while left < 3 {
            let moved = requeue(1, 2);
            ensure((0..=3).contains(&moved), || format!("requeue returned {moved}"))?;
            ensure(started.elapsed() < Duration::from_secs(20), || format!("{left} of 3 threads"))?;
            left += moved;
            thread::sleep(Duration::from_millis(1));
        }
        if is_locked {
            expect("unlock", release(), 0)?;
        }
        for thread in threads {
            let (result, is_owner, released) = joined(thread)?;
            expect("the wait", result, 0)?;
            ensure(is_owner, || "returned without the lock".into())?;
            expect("unlock by a waiter", released, 0)?;
        }
        expect_word("all unlocked", 0)?;
    }
    Ok(())
}

/// An unlock by the kernel clears the word and the pending entry of a robust list. Linux has it since 7.3.
pub fn robust_unlock(_: &[String]) -> ProbeResult {
    const ROBUST_UNLOCK: i32 = 512;
    const LIST32: i32 = 1024;
    let pending = [const { AtomicU32::new(0) }; 2];
    let commands = [libc::FUTEX_WAKE, libc::FUTEX_WAKE_BITSET, libc::FUTEX_UNLOCK_PI];
    for (command, width) in commands.into_iter().flat_map(|command| [(command, 0), (command, LIST32)]) {
        LOCK.store(id() | WAITERS, SeqCst);
        pending.iter().for_each(|half| half.store(7, SeqCst));
        let result = futex(&LOCK, command | ROBUST_UNLOCK | width, 1, 0, &pending[0], u32::MAX);
        if result == error(libc::ENOSYS) {
            println!("  no FUTEX_ROBUST_UNLOCK");
            return Ok(());
        }
        expect(&format!("unlock by {command}"), result, 0)?;
        expect_word("unlocked", 0)?;
        let left = [&pending[0], &pending[1]].map(|half| half.load(SeqCst));
        ensure(left == [0, if width == 0 { 0 } else { 7 }], || format!("the pending entry is {left:?}"))?;
    }
    LOCK.store(0, SeqCst);
    expect(
        "a wait",
        futex(&LOCK, libc::FUTEX_WAIT | ROBUST_UNLOCK, 1, 0, &pending[0], 0),
        error(libc::ENOSYS),
    )
}
