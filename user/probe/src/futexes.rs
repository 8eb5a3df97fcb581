//! Futexes by raw system calls: which threads a wake or a requeue affects, and the returned counts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::raw;
use crate::result::{ProbeResult, ensure};

const ALL: u32 = i32::MAX as u32;
const ANY_BIT: u32 = u32::MAX;
/// The time limit for a thread to start waiting or to end.
const LIMIT: Duration = Duration::from_secs(60);

/// The words, both 0. Threads start to wait at the first one.
static FIRST: AtomicU32 = AtomicU32::new(0);
static SECOND: AtomicU32 = AtomicU32::new(0);

/// `futex(2)` on words of this process.
pub fn futex(
    word: &AtomicU32,
    operation: i32,
    value: u32,
    timeout_or_count: u64,
    other: &AtomicU32,
    third: u32,
) -> i64 {
    let [word, other] = [word, other].map(|word| word.as_ptr().expose_provenance() as u64);
    let operation = (operation | libc::FUTEX_PRIVATE_FLAG) as u64;
    // SAFETY: reads the words and, if it is not 0, a timeout that outlives the call; writes nothing.
    unsafe {
        raw::call(libc::SYS_futex, [word, operation, value.into(), timeout_or_count, other, third.into()])
    }
}

fn wait(word: &AtomicU32, value: u32, bits: u32) -> i64 {
    futex(word, libc::FUTEX_WAIT_BITSET, value, 0, word, bits)
}

fn wake(word: &AtomicU32, count: u32) -> i64 {
    futex(word, libc::FUTEX_WAKE, count, 0, word, 0)
}

/// Requeues from [`FIRST`] to [`SECOND`] if the first word is `expected`.
fn requeue(wake: u32, moved: u32, expected: u32) -> i64 {
    futex(&FIRST, libc::FUTEX_CMP_REQUEUE, wake, moved.into(), &SECOND, expected)
}

/// The number of threads that wait at `word`: that of a requeue to the same word.
fn waiters(word: &AtomicU32) -> i64 {
    futex(word, libc::FUTEX_CMP_REQUEUE, 0, ALL.into(), word, word.load(Ordering::Relaxed))
}

fn until(case: &str, mut holds: impl FnMut() -> bool) -> ProbeResult {
    let start = Instant::now();
    while !holds() {
        ensure(start.elapsed() < LIMIT, || format!("{case}: not within {LIMIT:?}"))?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Threads that wait at [`FIRST`], in the order of their arrival.
struct Waiting(Vec<Option<JoinHandle<i64>>>);

impl Waiting {
    /// Starts a thread for each bit mask.
    fn start(masks: &[u32]) -> Result<Self, crate::result::Failure> {
        let mut threads = Vec::new();
        for (n, &bits) in masks.iter().enumerate() {
            threads.push(Some(thread::Builder::new().spawn(move || wait(&FIRST, 0, bits))?));
            until("a thread waits", || waiters(&FIRST) == n as i64 + 1)?;
        }
        Ok(Self(threads))
    }

    /// Exactly these threads end, and the others wait at the two words.
    fn ended(&mut self, threads: &[usize], (first, second): (i64, i64)) -> ProbeResult {
        for &n in threads {
            let Some(thread) = self.0[n].take() else { return Err("a thread is woken twice".into()) };
            until(&format!("thread {n} is woken"), || thread.is_finished())?;
            let result = thread.join().map_err(|_| "a thread panicked")?;
            ensure(result == 0, || format!("the wait of thread {n} returned {result}"))?;
        }
        let left = (waiters(&FIRST), waiters(&SECOND));
        ensure(left == (first, second), || format!("{left:?} threads wait, not {:?}", (first, second)))
    }
}

fn expect(call: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{call} returned {result}, not {expected}"))
}

/// A wake ends the waits of as many threads as requested, in the order of their arrival, and returns their
/// number; with a bit mask only those that have one of its bits.
pub fn wakes(_: &[String]) -> ProbeResult {
    expect("a wake without waiters", wake(&FIRST, ALL), 0)?;
    let mut threads = Waiting::start(&[ANY_BIT; 5])?;
    expect("a wake at another word", wake(&SECOND, ALL), 0)?;
    expect("a wake of 1", wake(&FIRST, 1), 1)?;
    threads.ended(&[0], (4, 0))?;
    expect("a wake of 2", wake(&FIRST, 2), 2)?;
    threads.ended(&[1, 2], (2, 0))?;
    expect("a wake of all", wake(&FIRST, ALL), 2)?;
    threads.ended(&[3, 4], (0, 0))?;

    let mut threads = Waiting::start(&[1, 2, 4, 3])?;
    let by_mask = |bits| futex(&FIRST, libc::FUTEX_WAKE_BITSET, ALL, 0, &FIRST, bits);
    expect("a wake without bits", by_mask(0), -i64::from(libc::EINVAL))?;
    expect("a wake by bit 3", by_mask(8), 0)?;
    expect("a wake by bit 1", by_mask(2), 2)?;
    threads.ended(&[1, 3], (2, 0))?;
    expect("a wake by all bits", by_mask(ANY_BIT), 2)?;
    threads.ended(&[0, 2], (0, 0))
}

/// A wait fails if the word differs or the time is over, and leaves no waiter.
pub fn waits(_: &[String]) -> ProbeResult {
    expect("a wait for another value", wait(&FIRST, 1, ANY_BIT), -i64::from(libc::EAGAIN))?;
    expect("a wait without bits", wait(&FIRST, 0, 0), -i64::from(libc::EINVAL))?;
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let start = Instant::now();
    let address = (&raw const timeout).expose_provenance() as u64;
    let result = futex(&FIRST, libc::FUTEX_WAIT, 0, address, &FIRST, 0);
    expect("a wait of 20 ms", result, -i64::from(libc::ETIMEDOUT))?;
    ensure(start.elapsed() >= Duration::from_millis(20), || format!("it took {:?}", start.elapsed()))?;
    expect("a wake after it", wake(&FIRST, ALL), 0)
}

/// A requeue wakes the first waiters, moves the next ones, leaves the rest, and returns the number of both;
/// with a differing word or a negative count it does nothing.
pub fn requeues(_: &[String]) -> ProbeResult {
    let mut threads = Waiting::start(&[ANY_BIT; 6])?;
    expect("a requeue with another value", requeue(ALL, ALL, 1), -i64::from(libc::EAGAIN))?;
    for (wake, moved) in [(u32::MAX, 1), (1, u32::MAX)] {
        expect("a requeue of a negative count", requeue(wake, moved, 0), -i64::from(libc::EINVAL))?;
    }
    threads.ended(&[], (6, 0))?;
    expect("a requeue of 1 + 2", requeue(1, 2, 0), 3)?;
    threads.ended(&[0], (3, 2))?;
    expect("a wake of 1 at the second word", wake(&SECOND, 1), 1)?;
    threads.ended(&[1], (3, 1))?;
    let plain = futex(&FIRST, libc::FUTEX_REQUEUE, 1, 1, &SECOND, 0);
    expect("a requeue without comparison of 1 + 1", plain, 2)?;
    threads.ended(&[3], (1, 2))?;
    expect("a wake of all at the first word", wake(&FIRST, ALL), 1)?;
    threads.ended(&[5], (0, 2))?;
    expect("a wake of all at the second word", wake(&SECOND, ALL), 2)?;
    threads.ended(&[2, 4], (0, 0))
}

/// An entry of a list of robust futexes with its word.
#[repr(C)]
struct RobustLock {
    next: u64,
    word: AtomicU32,
}

/// A thread that exits with locks held marks them with a dead owner, and one waiter of each is woken.
pub fn owner_died(_: &[String]) -> ProbeResult {
    const FUTEX_OFFSET: u64 = std::mem::offset_of!(RobustLock, word) as u64;
    // As the thread exits: read by the kernel, so they are never freed.
    let lock = || &*Box::leak(Box::new(RobustLock { next: 0, word: AtomicU32::new(0) }));
    let (first, second, free) = (lock(), lock(), lock());
    let owner = thread::spawn(move || {
        let address = |lock: &RobustLock| std::ptr::from_ref(lock).expose_provenance() as u64;
        // SAFETY: no arguments.
        let id = unsafe { raw::call(libc::SYS_gettid, [0; 6]) } as u32;
        first.word.store(id, Ordering::SeqCst);
        second.word.store(id | libc::FUTEX_WAITERS, Ordering::SeqCst);
        let entry = |next: u64, lock: &RobustLock| {
            // SAFETY: only the kernel reads it, when this thread exits.
            unsafe { std::ptr::from_ref(&lock.next).cast_mut().write_volatile(next) };
            address(lock)
        };
        let head: &mut [u64; 3] = Box::leak(Box::new([0, FUTEX_OFFSET, 0]));
        let end = head.as_mut_ptr().expose_provenance() as u64;
        head[0] = entry(entry(entry(end, free), second), first);
        // SAFETY: the head and the entries are never freed.
        unsafe { raw::call(libc::SYS_set_robust_list, [end, 24, 0, 0, 0, 0]) }
    });
    let set = owner.join().map_err(|_| "the owner panicked")?;
    expect("set_robust_list", set, 0)?;
    // `join` returns when the thread id is cleared, which is after the release of the locks.
    let words = [first, second, free].map(|lock| lock.word.load(Ordering::SeqCst));
    let expected = [libc::FUTEX_OWNER_DIED, libc::FUTEX_OWNER_DIED | libc::FUTEX_WAITERS, 0];
    ensure(words == expected, || format!("futex words {words:x?}, not {expected:x?}"))
}

/// A word that is unaligned or not in user memory is rejected by every operation.
pub fn bad_words(_: &[String]) -> ProbeResult {
    let word = FIRST.as_ptr().expose_provenance() as u64;
    let other = SECOND.as_ptr().expose_provenance() as u64;
    let (einval, efault) = (-i64::from(libc::EINVAL), -i64::from(libc::EFAULT));
    let kernel = 0xffff_0000_0000_0000;
    let cases = [
        ("a wake of an unaligned word", libc::FUTEX_WAKE, [word + 1, 1, 0, 0, 0], einval),
        ("a wake without bits", libc::FUTEX_WAKE_BITSET, [word, 1, 0, 0, 0], einval),
        ("a wake of a kernel address", libc::FUTEX_WAKE, [kernel, 1, 0, 0, 0], efault),
        ("a wait at a kernel address", libc::FUTEX_WAIT, [kernel, 1, 0, 0, 0], efault),
        ("a requeue of -1 threads", libc::FUTEX_REQUEUE, [word, 1, u64::MAX, other, 0], einval),
        ("a requeue to an unaligned word", libc::FUTEX_CMP_REQUEUE, [word, 1, 1, other + 1, 0], einval),
        ("a requeue to a kernel address", libc::FUTEX_CMP_REQUEUE, [word, 1, 1, kernel, 0], efault),
    ];
    for (case, operation, [at, value, third, fourth, fifth], expected) in cases {
        let operation = (operation | libc::FUTEX_PRIVATE_FLAG) as u64;
        // SAFETY: a rejected call accesses no memory but the two words.
        let result = unsafe { raw::call(libc::SYS_futex, [at, operation, value, third, fourth, fifth]) };
        expect(case, result, expected)?;
    }
    Ok(())
}
