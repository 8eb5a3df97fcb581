//! Clocks, sleep and random bytes.

use std::time::{Duration, Instant};

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// Time is monotonic, and sleep lasts at least as long as requested. The upper limit is generous, since it
/// depends on the load of the host.
pub fn clocks(_: &[String]) -> ProbeResult {
    let mut last = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        ensure(now >= last, || format!("{now:?} after {last:?}"))?;
        last = now;
    }
    for wanted in [1, 20, 120].map(Duration::from_millis) {
        let started = Instant::now();
        std::thread::sleep(wanted);
        let slept = started.elapsed();
        ensure(slept >= wanted && slept < wanted + Duration::from_secs(60), || {
            format!("{slept:?} for {wanted:?}")
        })?;
    }
    Ok(())
}

/// Two random draws differ, and the first is not all zero.
pub fn random(_: &[String]) -> ProbeResult {
    let draw = || {
        let mut bytes = [0u8; 32];
        // SAFETY: a local array with its length.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        (got, bytes)
    };
    let (first, second) = (draw(), draw());
    ensure(first.0 == 32 && second.0 == 32, || format!("{} and {} bytes", first.0, second.0))?;
    ensure(first.1 != second.1 && first.1 != [0; 32], || format!("twice {:x?}", first.1))?;
    let mut long = vec![0u8; 5000];
    // SAFETY: a local array with its length.
    let got = unsafe { libc::getrandom(long.as_mut_ptr().cast(), long.len(), 0) };
    ensure(got == 5000, || format!("{got} of 5000 bytes"))?;
    let tail = &long[4900..];
    ensure(tail.iter().any(|&byte| byte != 0), || "the end is not filled".into())
}

/// The time of the clock `id` in nanoseconds, or a negative error code.
fn clock(id: i32) -> i64 {
    let mut time = [0i64; 2];
    let at = time.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: writes `time` only.
    let result = unsafe { raw::call(libc::SYS_clock_gettime, [id as u64, at, 0, 0, 0, 0]) };
    if result < 0 { result } else { time[0] * 1_000_000_000 + time[1] }
}

/// A sleeping program uses no CPU time, a busy one does; CPU time of a thread is part of that of the process.
pub fn cpu_time(_: &[String]) -> ProbeResult {
    const MS: i64 = 1_000_000;
    // SAFETY: no arguments.
    let thread = !unsafe { raw::call(libc::SYS_gettid, [0; 6]) } as i32;
    let clocks = [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID, thread << 3 | 6];
    let before = clocks.map(clock);
    std::thread::sleep(Duration::from_millis(300));
    let asleep = clocks.map(clock);
    for (before, asleep) in before.iter().zip(asleep) {
        let used = asleep - before;
        ensure(*before >= 0 && (0..100 * MS).contains(&used), || format!("{used} ns while asleep"))?;
    }
    let other = std::thread::spawn(|| while clock(libc::CLOCK_THREAD_CPUTIME_ID) < 30 * MS {});
    other.join().map_err(|_| "the other thread panicked")?;
    let (process, thread) = (clock(clocks[0]), clock(clocks[1]));
    ensure(process >= thread + 30 * MS, || format!("process {process} ns, this thread {thread} ns"))
}

/// Clock ids have Linux's meaning and errors; `gettimeofday` is `CLOCK_REALTIME`.
pub fn clock_ids(_: &[String]) -> ProbeResult {
    let known = [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_MONOTONIC_RAW,
        libc::CLOCK_REALTIME_COARSE,
        libc::CLOCK_MONOTONIC_COARSE,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_TAI,
    ];
    for id in known {
        ensure(clock(id) > 0, || format!("clock {id}: {}", clock(id)))?;
    }
    for id in [10, 12, 100, i32::MIN] {
        ensure(clock(id) == -i64::from(libc::EINVAL), || format!("clock {id}: {}", clock(id)))?;
    }
    let sleep = |id: i32, flags: u64, time: &[i64; 2]| {
        let at = time.as_ptr().expose_provenance() as u64;
        // SAFETY: reads `time` only.
        unsafe { raw::call(libc::SYS_clock_nanosleep, [id as u64, flags, at, 0, 0, 0]) }
    };
    let errors = [
        (libc::CLOCK_THREAD_CPUTIME_ID, libc::EOPNOTSUPP),
        (libc::CLOCK_MONOTONIC_RAW, libc::EOPNOTSUPP),
        (libc::CLOCK_REALTIME_COARSE, libc::EOPNOTSUPP),
    ];
    for (id, errno) in errors {
        let result = sleep(id, 0, &[0, 1000]);
        ensure(result == -i64::from(errno), || format!("a sleep on clock {id}: {result}"))?;
    }
    for id in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC] {
        let until = clock(id) + 20_000_000;
        let result = sleep(id, libc::TIMER_ABSTIME as u64, &[until / 1_000_000_000, until % 1_000_000_000]);
        ensure(result == 0 && clock(id) >= until, || format!("an absolute sleep on clock {id}: {result}"))?;
    }
    let mut day = [0i64; 2];
    let at = day.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: writes `day` only.
    let result = unsafe { raw::call(libc::SYS_gettimeofday, [at, 0, 0, 0, 0, 0]) };
    let apart = clock(libc::CLOCK_REALTIME) - (day[0] * 1_000_000_000 + day[1] * 1000);
    ensure(result == 0 && (0..60_000_000_000).contains(&apart), || {
        format!("gettimeofday: {result}, {apart} ns before CLOCK_REALTIME")
    })
}
