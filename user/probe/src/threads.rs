//! Threads: locks, preemption of endless loops, and register preservation across context switches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::result::{Failure, ProbeResult, ensure};

/// More than the CPUs of most machines.
const THREADS: usize = 6;

/// Mutex, condition variable, barrier and channel between threads, all based on futexes.
pub fn locks_and_channels(_: &[String]) -> ProbeResult {
    const ROUNDS: u64 = 2_000;
    let shared = Arc::new((Mutex::new(0u64), Condvar::new()));
    let barrier = Arc::new(Barrier::new(THREADS));
    let (send, receive) = mpsc::channel();
    for n in 0..THREADS as u64 {
        let (shared, barrier, send) = (Arc::clone(&shared), Arc::clone(&barrier), send.clone());
        thread::spawn(move || {
            barrier.wait();
            (0..ROUNDS).for_each(|_| *shared.0.lock().expect("no holder panics") += 1);
            shared.1.notify_all();
            // The receiver exists unless the probe has already failed.
            let _ = send.send(n);
        });
    }
    drop(send);
    let wanted = ROUNDS * THREADS as u64;
    let count = shared.0.lock().expect("no holder panics");
    let limit = Duration::from_secs(120);
    let waited = shared.1.wait_timeout_while(count, limit, |count| *count < wanted);
    let count = *waited.expect("no holder panics").0;
    ensure(count == wanted, || format!("{count} of {wanted} increments"))?;
    let sum: u64 = receive.iter().sum();
    ensure(sum == (0..THREADS as u64).sum(), || format!("the threads' numbers add up to {sum}"))
}

/// Threads without system calls are preempted, and the process exits while they are still running.
pub fn preemption(_: &[String]) -> ProbeResult {
    let counters: Arc<Vec<AtomicU64>> = Arc::new((0..THREADS).map(|_| AtomicU64::new(0)).collect());
    for n in 0..THREADS {
        let counters = Arc::clone(&counters);
        thread::spawn(move || {
            loop {
                counters[n].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let read = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let started = Instant::now();
    let mut last = vec![0; THREADS];
    for round in 0..3 {
        loop {
            thread::sleep(Duration::from_millis(30));
            let now = read();
            if now.iter().zip(&last).all(|(now, last)| now > last) {
                last = now;
                break;
            }
            ensure(started.elapsed() < Duration::from_secs(120), || {
                format!("round {round}: {last:?}, then {now:?}")
            })?;
        }
    }
    Ok(())
}

/// Floating-point results of concurrent threads are bit-identical to those of a single thread.
pub fn floating_point(_: &[String]) -> ProbeResult {
    const STEPS: u32 = 300_000;
    let seeds: Vec<f64> = (1..=THREADS).map(|n| n as f64 / (THREADS + 1) as f64).collect();
    let expected: Vec<u64> = seeds.iter().map(|seed| logistic_maps(*seed, STEPS)).collect();
    let threads: Vec<_> =
        seeds.into_iter().map(|seed| thread::spawn(move || logistic_maps(seed, STEPS))).collect();
    for (n, (thread, expected)) in threads.into_iter().zip(expected).enumerate() {
        let result = thread.join().map_err(|_| Failure::from("a thread panicked"))?;
        ensure(result == expected, || format!("thread {n}: {result:#x}, single-threaded {expected:#x}"))?;
    }
    new_thread_inherits_the_rounding_mode()
}

/// `clone` copies all registers, FPCR included.
fn new_thread_inherits_the_rounding_mode() -> ProbeResult {
    let before = fpcr();
    set_fpcr(ROUND_TOWARD_ZERO);
    let child = thread::spawn(fpcr).join();
    set_fpcr(before);
    let child = child.map_err(|_| Failure::from("a thread panicked"))?;
    ensure(child == ROUND_TOWARD_ZERO, || format!("FPCR of the new thread is {child:#x}"))
}

/// FPCR.RMode.
const ROUND_TOWARD_ZERO: u64 = 0b11 << 22;

#[cfg(target_arch = "aarch64")]
fn fpcr() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack)) };
    value
}

#[cfg(target_arch = "aarch64")]
fn set_fpcr(value: u64) {
    // SAFETY: the caller restores the rounding mode; nothing is computed with floating point until then.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack)) };
}

#[cfg(not(target_arch = "aarch64"))]
fn fpcr() -> u64 {
    ROUND_TOWARD_ZERO
}

#[cfg(not(target_arch = "aarch64"))]
fn set_fpcr(_: u64) {}

/// Eight logistic maps in parallel: chaotic, so that any register corruption changes the result.
fn logistic_maps(seed: f64, steps: u32) -> u64 {
    let mut lanes: [f64; 8] = std::array::from_fn(|n| seed / (n + 1) as f64);
    for _ in 0..steps {
        lanes.iter_mut().for_each(|x| *x = 3.99 * *x * (1.0 - *x));
    }
    lanes.iter().fold(0, |sum, x| sum.rotate_left(7) ^ x.to_bits())
}
