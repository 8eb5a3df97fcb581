//! `timerfd`: single, periodic and absolute expirations.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::epolls::{owned, poll, read, take};
use crate::raw;
use crate::result::{ProbeResult, ensure, expect_error};

const MS: i64 = 1_000_000;
const CLOCKS: [i32; 3] = [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME];

fn done(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result) }
}

fn create(clock: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { raw::call(libc::SYS_timerfd_create, [clock as u64, flags as u64, 0, 0, 0, 0]) })
}

/// Interval and value, in nanoseconds.
fn pair([interval, value]: [i64; 2]) -> [i64; 4] {
    const S: i64 = 1_000_000_000;
    [interval / S, interval % S, value / S, value % S]
}

/// Sets interval and value, and returns the old ones in nanoseconds.
fn set(timer: &OwnedFd, flags: i32, new: [i64; 4]) -> io::Result<[i64; 2]> {
    let mut old = [0i64; 4];
    let [new, old_at] =
        [new.as_ptr().expose_provenance() as u64, old.as_mut_ptr().expose_provenance() as u64];
    let arguments = [timer.as_raw_fd() as u64, flags as u64, new, old_at, 0, 0];
    // SAFETY: reads the new and writes the old times.
    done(unsafe { raw::call(libc::SYS_timerfd_settime, arguments) })?;
    Ok([old[0] * 1000 * MS + old[1], old[2] * 1000 * MS + old[3]])
}

fn get(timer: &OwnedFd) -> io::Result<[i64; 2]> {
    let mut now = [0i64; 4];
    let at = now.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: writes the times.
    done(unsafe { raw::call(libc::SYS_timerfd_gettime, [timer.as_raw_fd() as u64, at, 0, 0, 0, 0]) })?;
    Ok([now[0] * 1000 * MS + now[1], now[2] * 1000 * MS + now[3]])
}

fn clock(id: i32) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec * 1000 * MS + time.tv_nsec
}

/// Expirations wake a reader at their times, and are counted.
pub fn expirations(_: &[String]) -> ProbeResult {
    for id in CLOCKS {
        let timer = create(id, 0)?;
        ensure(poll(&timer)? == 0, || "not armed, but ready".into())?;
        let old = set(&timer, 0, pair([0, 60_000 * MS]))?;
        ensure(old == [0, 0], || format!("{old:?} before the first setting"))?;
        let left = get(&timer)?;
        ensure(left[0] == 0 && (1..=60_000 * MS).contains(&left[1]), || format!("{left:?} left"))?;
        let started = Instant::now();
        set(&timer, 0, pair([0, 30 * MS]))?;
        ensure(take(&timer)? == 1, || "one expiration".into())?;
        let waited = started.elapsed();
        ensure(waited >= Duration::from_millis(30), || format!("clock {id}: {waited:?}"))?;
        ensure(get(&timer)? == [0, 0] && poll(&timer)? == 0, || "expired once".into())?;

        let at = clock(id) + 30 * MS;
        set(&timer, libc::TFD_TIMER_ABSTIME, pair([0, at]))?;
        ensure(take(&timer)? == 1 && clock(id) >= at, || format!("clock {id}: too early"))?;
        set(&timer, libc::TFD_TIMER_ABSTIME, pair([0, 1]))?;
        ensure(take(&timer)? == 1, || "a time in the past".into())?;
    }
    let timer = create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    expect_error("no expiration", take(&timer), libc::EAGAIN)?;
    let started = Instant::now();
    set(&timer, 0, pair([5 * MS, 10 * MS]))?;
    thread::sleep(Duration::from_millis(52));
    ensure(poll(&timer)? == libc::POLLIN as u32, || "not ready".into())?;
    let count = take(&timer)?;
    let most = started.elapsed().as_millis() as u64 / 5;
    ensure((9..=most).contains(&count), || format!("{count} of at most {most} expirations"))?;
    let [interval, left] = get(&timer)?;
    ensure(interval == 5 * MS && (1..=5 * MS).contains(&left), || format!("{interval}, {left} left"))?;
    let old = set(&timer, 0, pair([7 * MS, 0]))?;
    ensure(old[0] == 5 * MS && old[1] <= 5 * MS, || format!("{old:?} before disarming"))?;
    thread::sleep(Duration::from_millis(10));
    expect_error("a disarmed timer", take(&timer), libc::EAGAIN)?;
    ensure(get(&timer)?[1] == 0, || "a disarmed timer has time left".into())
}

/// Threads that wait by `read` and `poll` are woken. A changed timer expires at its new time, a closed one
/// not at all.
pub fn waits(_: &[String]) -> ProbeResult {
    let timer = create(libc::CLOCK_MONOTONIC, 0)?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| take(&timer));
        thread::sleep(Duration::from_millis(10));
        set(&timer, 0, pair([0, 60_000 * MS]))?;
        set(&timer, 0, pair([0, 5 * MS]))?;
        let count = reader.join().map_err(|_| "panic")??;
        ensure(count == 1, || format!("{count} expirations"))
    })?;
    let mut fd = libc::pollfd { fd: timer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Before the timer is armed: on a busy host the thread may be preempted between the two.
    let started = Instant::now();
    set(&timer, 0, pair([0, 20 * MS]))?;
    // SAFETY: one structure.
    let ready = unsafe { libc::poll(&raw mut fd, 1, 60_000) };
    let waited = started.elapsed();
    ensure(ready == 1 && waited >= Duration::from_millis(20), || format!("{ready} ready after {waited:?}"))?;
    let started = Instant::now();
    set(&timer, 0, pair([5 * MS, 5 * MS]))?;
    let count = take(&timer)? + take(&timer)? + take(&timer)?;
    let waited = started.elapsed();
    ensure(count >= 3 && waited >= Duration::from_millis(15), || format!("{count} within {waited:?}"))?;
    // More than there can be at a time.
    for n in 0..600 {
        let timer = create(libc::CLOCK_MONOTONIC, 0)?;
        set(&timer, 0, pair([1, n * 1000]))?;
    }
    Ok(())
}

/// Errors of the three calls.
pub fn errors(_: &[String]) -> ProbeResult {
    expect_error("a CPU clock", create(libc::CLOCK_PROCESS_CPUTIME_ID, 0), libc::EINVAL)?;
    expect_error("unknown flags", create(libc::CLOCK_MONOTONIC, 1), libc::EINVAL)?;
    let timer = create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    expect_error("unknown flags of a setting", set(&timer, 8, pair([0, 1])), libc::EINVAL)?;
    for invalid in [[0, 0, 0, 1_000_000_000], [0, -1, 0, 0], [-1, 0, 1, 0]] {
        expect_error("an invalid time", set(&timer, 0, invalid), libc::EINVAL)?;
    }
    expect_error("a short read", read::<7>(&timer), libc::EINVAL)?;
    expect_error("a write", crate::epolls::add(&timer, 1), libc::EINVAL)?;
    let other = crate::epolls::eventfd(0, 0)?;
    expect_error("no timer", set(&other, 0, pair([0, 1])), libc::EINVAL)?;
    expect_error("no timer to read", get(&other), libc::EINVAL)?;
    let bad = |call, arguments: [u64; 6]| {
        // SAFETY: the pointers are invalid.
        done(unsafe { raw::call(call, arguments) })
    };
    let number = timer.as_raw_fd() as u64;
    expect_error("no new times", bad(libc::SYS_timerfd_settime, [number, 0, 8, 0, 0, 0]), libc::EFAULT)?;
    expect_error("no room", bad(libc::SYS_timerfd_gettime, [number, 8, 0, 0, 0, 0]), libc::EFAULT)?;
    expect_error("closed", bad(libc::SYS_timerfd_gettime, [1000, 8, 0, 0, 0, 0]), libc::EBADF)
}
