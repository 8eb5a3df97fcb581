//! Timers that send signals, and files from which signals are read.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::epolls::{owned, poll};
use crate::raw;
use crate::result::{ProbeResult, ensure};

const MS: i64 = 1_000_000;
const SECOND: i64 = 1000 * MS;
/// `si_code` of a POSIX timer.
const SI_TIMER: i32 = -2;
const EINVAL: i64 = -(libc::EINVAL as i64);

fn address<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).expose_provenance() as u64
}

/// Performs a call that reads or writes only memory of its caller.
fn call(number: i64, arguments: [u64; 6]) -> i64 {
    // SAFETY: the addresses in `arguments` are those of live values of the caller.
    unsafe { raw::call(number, arguments) }
}

fn expect(what: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{what} returned {result}, not {expected}"))
}

fn os_error(result: i64) -> io::Error {
    io::Error::from_raw_os_error(-result as i32)
}

fn thread_id() -> u64 {
    call(libc::SYS_gettid, [0; 6]) as u64
}

static ALARMS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_alarm(_: i32) {
    ALARMS.fetch_add(1, SeqCst);
}

/// Sets the timer of real time; the times are in microseconds. Returns the old ones.
fn set_interval(which: u64, interval: i64, value: i64) -> (i64, [i64; 4]) {
    const S: i64 = 1_000_000;
    let (mut new, mut old) = ([interval / S, interval % S, value / S, value % S], [0i64; 4]);
    (call(libc::SYS_setitimer, [which, address(&mut new), address(&mut old), 0, 0, 0]), old)
}

/// `setitimer` sends SIGALRM repeatedly until it is disarmed.
pub fn interval(_: &[String]) -> ProbeResult {
    let handler: extern "C" fn(i32) = count_alarm;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGALRM, handler as libc::sighandler_t) };
    let started = Instant::now();
    expect("setitimer", set_interval(0, 5000, 10_000).0, 0)?;
    while ALARMS.load(SeqCst) < 3 {
        ensure(started.elapsed() < Duration::from_secs(5), || "no three signals in 5 s".into())?;
        thread::sleep(Duration::from_millis(1));
    }
    let waited = started.elapsed();
    ensure(waited >= Duration::from_millis(20), || format!("three signals after {waited:?}"))?;
    let mut now = [0i64; 4];
    expect("getitimer", call(libc::SYS_getitimer, [0, address(&mut now), 0, 0, 0, 0]), 0)?;
    ensure(now[..2] == [0, 5000] && now[2] == 0 && now[3] <= 5000, || format!("the timer is {now:?}"))?;
    let (result, old) = set_interval(0, 0, 0);
    ensure(result == 0 && old[..2] == [0, 5000], || format!("{result}, the old timer was {old:?}"))?;
    thread::sleep(Duration::from_millis(10));
    let count = ALARMS.load(SeqCst);
    thread::sleep(Duration::from_millis(20));
    expect("signals after the end", ALARMS.load(SeqCst) as i64, count as i64)?;

    set_interval(0, 0, 30_000_000);
    let (_, old) = set_interval(0, 0, 0);
    ensure(old[..2] == [0, 0] && old[2] == 29, || format!("of 30 s, {old:?} are left"))?;
    let mut bad = [0, 0, 0, 1_000_000i64];
    expect("1000000 us", call(libc::SYS_setitimer, [0, address(&mut bad), 0, 0, 0, 0]), EINVAL)?;
    expect("setitimer of timer 3", set_interval(3, 0, 0).0, EINVAL)
}

/// `struct sigevent`.
#[repr(C)]
struct TimerEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: u32,
    unused: [u32; 11],
}

/// A notification of this thread by `signal`, with the value 0x1234.
fn event(signal: i32, notify: i32) -> TimerEvent {
    TimerEvent { value: 0x1234, signal, notify, thread: thread_id() as u32, unused: [0; 11] }
}

fn create(clock: i32, mut event: TimerEvent) -> (i64, i32) {
    let mut id = -1;
    let arguments = [clock as u64, address(&mut event), address(&mut id), 0, 0, 0];
    (call(libc::SYS_timer_create, arguments), id)
}

fn set(id: i32, flags: i32, [interval, value]: [i64; 2]) -> i64 {
    let mut new = [interval / SECOND, interval % SECOND, value / SECOND, value % SECOND];
    call(libc::SYS_timer_settime, [id as u64, flags as u64, address(&mut new), 0, 0, 0])
}

fn remaining(id: i32) -> i64 {
    let mut now = [0i64; 4];
    let result = call(libc::SYS_timer_gettime, [id as u64, address(&mut now), 0, 0, 0, 0]);
    if result < 0 { result } else { now[2] * SECOND + now[3] }
}

fn on_timer(number: i64, id: i32) -> i64 {
    call(number, [id as u64, 0, 0, 0, 0, 0])
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks `signal` in this thread.
fn block(signal: i32) {
    let how = libc::SIG_BLOCK as u64;
    call(libc::SYS_rt_sigprocmask, [how, address(&mut bit(signal)), 0, 8, 0, 0]);
}

/// Takes a pending signal within `ms`: its code, timer, overrun count and value.
fn wait(signal: i32, ms: i64) -> Result<[i64; 4], i64> {
    let (mut set, mut info, mut timeout) = (bit(signal), [0i32; 32], [0, ms * MS]);
    let arguments = [address(&mut set), address(&mut info), address(&mut timeout), 8, 0, 0];
    let result = call(libc::SYS_rt_sigtimedwait, arguments);
    if result < 0 { Err(result) } else { Ok([info[2], info[4], info[5], info[6]].map(i64::from)) }
}

/// POSIX timers send signals with their value, and count the expirations until a signal is taken.
pub fn posix(_: &[String]) -> ProbeResult {
    const SIGNAL: i32 = libc::SIGUSR2;
    block(SIGNAL);
    let (result, id) = create(libc::CLOCK_MONOTONIC, event(SIGNAL, libc::SIGEV_THREAD_ID));
    expect("timer_create", result, 0)?;
    expect("a timer that is not set", remaining(id), 0)?;
    expect("timer_settime", set(id, 0, [10 * MS, 10 * MS]), 0)?;
    thread::sleep(Duration::from_millis(45));
    let seen = wait(SIGNAL, 0).map_err(os_error)?;
    ensure(seen[0] == SI_TIMER.into() && seen[1] == id.into() && seen[3] == 0x1234, || format!("{seen:?}"))?;
    ensure(seen[2] >= 3, || format!("{} overruns in 45 ms of 10 ms", seen[2]))?;
    expect("timer_getoverrun", on_timer(libc::SYS_timer_getoverrun, id), seen[2])?;
    let next = wait(SIGNAL, 900);
    ensure(next.is_ok(), || format!("the next expiration: {next:?}"))?;
    let left = remaining(id);
    ensure((1..=10 * MS).contains(&left), || format!("{left} ns left of 10 ms"))?;
    thread::sleep(Duration::from_millis(15));
    expect("timer_delete", on_timer(libc::SYS_timer_delete, id), 0)?;
    expect("a signal of a deleted timer", wait(SIGNAL, 30).unwrap_or_default()[0], 0)?;
    expect("timer_getoverrun of a deleted timer", on_timer(libc::SYS_timer_getoverrun, id), EINVAL)?;

    let (_, silent) = create(libc::CLOCK_BOOTTIME, event(0, libc::SIGEV_NONE));
    set(silent, 0, [0, 60 * SECOND]);
    let left = remaining(silent);
    set(silent, 0, [0, 20 * MS]);
    thread::sleep(Duration::from_millis(30));
    let after = remaining(silent);
    ensure((1..=60 * SECOND).contains(&left) && after == 0, || format!("{left} and {after} ns left"))?;
    let (_, past) = create(libc::CLOCK_REALTIME, event(SIGNAL, libc::SIGEV_THREAD_ID));
    set(past, libc::TIMER_ABSTIME, [0, SECOND]);
    let seen = wait(SIGNAL, 900);
    ensure(seen.is_ok_and(|seen| seen[2] == 0), || format!("a time in the past: {seen:?}"))?;
    [silent, past].into_iter().for_each(|id| _ = on_timer(libc::SYS_timer_delete, id));
    Ok(())
}

/// Runs until `ends`, for at most 5 s.
fn busy(ends: impl Fn() -> bool) -> ProbeResult {
    let started = Instant::now();
    while !ends() {
        ensure(started.elapsed() < Duration::from_secs(5), || "no signal in 5 s".into())?;
    }
    Ok(())
}

fn cpu_clock(clock: i32) -> i64 {
    let mut now = [0i64; 2];
    call(libc::SYS_clock_gettime, [clock as u64, address(&mut now), 0, 0, 0, 0]);
    now[0] * SECOND + now[1]
}

static PROFILED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_profile(_: i32) {
    PROFILED.fetch_add(1, SeqCst);
}

/// Timers of CPU time expire after the process or the thread has run for their time, and not while it sleeps.
pub fn cpu_time(_: &[String]) -> ProbeResult {
    const SIGNAL: i32 = libc::SIGUSR2;
    let handler: extern "C" fn(i32) = count_profile;
    for (which, signal) in [(1, libc::SIGVTALRM), (2, libc::SIGPROF)] {
        // SAFETY: the handler only counts.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        PROFILED.store(0, SeqCst);
        let started = cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID);
        expect("setitimer", set_interval(which, 20_000, 30_000).0, 0)?;
        busy(|| PROFILED.load(SeqCst) >= 3)?;
        let used = cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID) - started;
        let (_, old) = set_interval(which, 0, 0);
        ensure(used >= 60 * MS, || format!("three signals of timer {which} after {used} ns"))?;
        ensure(old[..2] == [0, 20_000] && old[2] == 0, || format!("the timer was {old:?}"))?;
    }
    block(SIGNAL);
    for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID] {
        let (result, id) = create(clock, event(SIGNAL, libc::SIGEV_THREAD_ID));
        expect("timer_create", result, 0)?;
        let started = cpu_clock(clock);
        expect("timer_settime", set(id, 0, [30 * MS, 30 * MS]), 0)?;
        let left = remaining(id);
        ensure((1..=30 * MS).contains(&left), || format!("{left} ns left of 30 ms"))?;
        if clock == libc::CLOCK_THREAD_CPUTIME_ID {
            thread::sleep(Duration::from_millis(60));
            expect("a signal while the thread slept", wait(SIGNAL, 0).unwrap_or_default()[0], 0)?;
        }
        busy(|| cpu_clock(clock) - started >= 100 * MS)?;
        let seen = wait(SIGNAL, 0).map_err(os_error)?;
        let fields = seen[0] == SI_TIMER.into() && seen[1] == id.into() && seen[2] >= 2;
        ensure(fields, || format!("the signal of clock {clock}: {seen:?}"))?;
        expect("an absolute time", set(id, libc::TIMER_ABSTIME, [0, 1]), 0)?;
        busy(|| wait(SIGNAL, 0).is_ok())?;
        expect("timer_delete", on_timer(libc::SYS_timer_delete, id), 0)?;
    }
    let other = !0x07ff_ffff << 3 | 2;
    expect("the clock of no process", create(other, event(0, libc::SIGEV_NONE)).0, EINVAL)
}

/// A signal of a timer that was ignored is sent when it is not ignored any more, with all expirations.
pub fn ignored(_: &[String]) -> ProbeResult {
    const SIGNAL: i32 = libc::SIGIO;
    block(SIGNAL);
    let handler: extern "C" fn(i32) = count_profile;
    let (_, id) = create(libc::CLOCK_MONOTONIC, event(SIGNAL, libc::SIGEV_THREAD_ID));
    set(id, 0, [10 * MS, 10 * MS]);
    thread::sleep(Duration::from_millis(30));
    // SAFETY: ignored, then counted by the handler.
    unsafe { libc::signal(SIGNAL, libc::SIG_IGN) };
    thread::sleep(Duration::from_millis(30));
    let ignored = wait(SIGNAL, 0);
    // SAFETY: as above.
    unsafe { libc::signal(SIGNAL, handler as libc::sighandler_t) };
    let seen = wait(SIGNAL, 900);
    on_timer(libc::SYS_timer_delete, id);
    ensure(ignored.is_err(), || format!("ignored: {ignored:?}"))?;
    ensure(seen.is_ok_and(|seen| seen[1] == id.into()), || format!("{seen:?}"))
}

/// Unknown clocks, notifications, signals, timers and times are rejected.
pub fn errors(_: &[String]) -> ProbeResult {
    let to_thread = libc::SIGEV_THREAD_ID;
    let clock = libc::CLOCK_MONOTONIC;
    expect("clock 99", create(99, event(libc::SIGUSR2, to_thread)).0, EINVAL)?;
    let raw = create(libc::CLOCK_MONOTONIC_RAW, event(libc::SIGUSR2, to_thread)).0;
    expect("the raw clock", raw, -i64::from(libc::EOPNOTSUPP))?;
    for signal in [0, -1, 65] {
        expect(&format!("signal {signal}"), create(clock, event(signal, to_thread)).0, EINVAL)?;
    }
    expect("notification 3", create(clock, event(libc::SIGUSR2, 3)).0, EINVAL)?;
    let other = TimerEvent { thread: 0x7fff_fff0, ..event(libc::SIGUSR2, to_thread) };
    expect("a thread that does not exist", create(clock, other).0, EINVAL)?;
    for number in [libc::SYS_timer_getoverrun, libc::SYS_timer_delete] {
        expect("timer 77", on_timer(number, 77), EINVAL)?;
        expect("timer -1", on_timer(number, -1), EINVAL)?;
    }
    expect("timer_gettime of timer 77", remaining(77), EINVAL)?;
    let (_, id) = create(clock, event(0, libc::SIGEV_NONE));
    let mut times = [0, 0, 0, SECOND];
    let result = call(libc::SYS_timer_settime, [id as u64, 0, address(&mut times), 0, 0, 0]);
    let null = call(libc::SYS_timer_settime, [id as u64, 0, 0, 0, 0, 0]);
    on_timer(libc::SYS_timer_delete, id);
    expect("1000000000 ns", result, EINVAL)?;
    expect("timer_settime without times", null, EINVAL)
}

fn signalfd(file: i32, mask: u64, size: u64, flags: i32) -> i64 {
    let mut mask = mask;
    call(libc::SYS_signalfd4, [file as u64, address(&mut mask), size, flags as u64, 0, 0])
}

/// Reads a signal: the first ten words of its description.
fn read(file: &OwnedFd, len: u64) -> Result<[i32; 10], i64> {
    let mut info = [0i32; 64];
    let result = call(libc::SYS_read, [file.as_raw_fd() as u64, address(&mut info), len, 0, 0, 0]);
    if result == 128 { Ok(std::array::from_fn(|n| info[n])) } else { Err(result) }
}

/// Pending signals are read from a file, which wakes its readers.
pub fn signal_files(_: &[String]) -> ProbeResult {
    const SIGNAL: i32 = libc::SIGUSR2;
    block(SIGNAL);
    let (process, this) = (u64::from(std::process::id()), thread_id());
    let send = move || call(libc::SYS_tgkill, [process, this, SIGNAL as u64, 0, 0, 0]);
    let file: io::Result<OwnedFd> = owned(signalfd(-1, bit(SIGNAL), 8, libc::SFD_NONBLOCK));
    let file = file?;
    expect("read without a signal", read(&file, 128).unwrap_err(), -i64::from(libc::EAGAIN))?;
    ensure(poll(&file)? == 0, || "ready without a signal".into())?;
    send();
    ensure(poll(&file)? == libc::POLLIN as u32, || "not ready with a signal".into())?;
    expect("read of 100 bytes", read(&file, 100).unwrap_err(), EINVAL)?;
    let seen = read(&file, 256).map_err(os_error)?;
    ensure(seen[0] == SIGNAL && seen[2] == -6 && seen[3] as u64 == process, || format!("{seen:?}"))?;

    let (_, id) = create(libc::CLOCK_MONOTONIC, event(SIGNAL, libc::SIGEV_THREAD_ID));
    set(id, 0, [MS, MS]);
    thread::sleep(Duration::from_millis(20));
    let seen = read(&file, 128);
    on_timer(libc::SYS_timer_delete, id);
    let seen = seen.map_err(os_error)?;
    let fields = [seen[2], seen[6]] == [SI_TIMER, id] && seen[8] >= 10;
    ensure(fields, || format!("the signal of timer {id} is {seen:?}"))?;

    let waiting: io::Result<OwnedFd> = owned(signalfd(-1, bit(SIGNAL), 8, 0));
    let waiting = waiting?;
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        send()
    });
    let seen = read(&waiting, 128);
    ensure(seen.is_ok_and(|seen| seen[0] == SIGNAL), || format!("a blocking read returned {seen:?}"))?;
    ensure(sender.join().is_ok(), || "the sender panicked".into())?;
    send();
    let fd = file.as_raw_fd();
    expect("a new mask", signalfd(fd, bit(libc::SIGUSR1), 8, 0), fd.into())?;
    expect("read with another mask", read(&file, 128).unwrap_err(), -i64::from(libc::EAGAIN))?;
    signalfd(fd, bit(SIGNAL), 8, 0);
    ensure(read(&file, 128).is_ok(), || "no signal with the mask".into())?;
    expect("a mask of 4 bytes", signalfd(-1, 0, 4, 0), EINVAL)?;
    expect("unknown flags", signalfd(-1, 0, 8, 1), EINVAL)?;
    expect("another file", signalfd(other_file()?.as_raw_fd(), 0, 8, 0), EINVAL)?;
    expect("no file", signalfd(99, 0, 8, 0), -i64::from(libc::EBADF))
}

/// A file that is no signal file.
fn other_file() -> io::Result<OwnedFd> {
    owned(call(libc::SYS_eventfd2, [0; 6]))
}
