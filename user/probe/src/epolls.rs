//! Readiness of files: `eventfd2`, `ppoll`, `pselect6` and `epoll`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::raw;
use crate::result::{Failure, ProbeResult, ensure, expect_error};

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const EDGE: u32 = libc::EPOLLET as u32;
/// The time limit for a thread to be woken.
const LIMIT: Duration = Duration::from_secs(60);

/// Owns the descriptor that a call returned.
pub fn owned(result: i64) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the call returned a new descriptor, which nothing else owns.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::from_raw_os_error(-result as i32)),
    }
}

fn done(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result) }
}

fn number(file: &impl AsRawFd) -> u64 {
    file.as_raw_fd() as u64
}

pub fn eventfd(value: u32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { raw::call(libc::SYS_eventfd2, [value.into(), flags as u64, 0, 0, 0, 0]) })
}

/// Reads up to `N` bytes.
pub fn read<const N: usize>(file: &impl AsRawFd) -> io::Result<Vec<u8>> {
    let mut bytes = [0u8; N];
    let at = bytes.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: writes `bytes` only.
    let count = done(unsafe { raw::call(libc::SYS_read, [number(file), at, N as u64, 0, 0, 0]) })?;
    Ok(bytes[..count as usize].to_vec())
}

pub fn write(file: &impl AsRawFd, bytes: &[u8]) -> io::Result<i64> {
    let at = bytes.as_ptr().expose_provenance() as u64;
    // SAFETY: reads `bytes` only.
    done(unsafe { raw::call(libc::SYS_write, [number(file), at, bytes.len() as u64, 0, 0, 0]) })
}

pub fn add(file: &impl AsRawFd, value: u64) -> io::Result<i64> {
    write(file, &value.to_ne_bytes())
}

pub fn take(file: &impl AsRawFd) -> io::Result<u64> {
    let bytes = read::<8>(file)?;
    bytes.try_into().map(u64::from_ne_bytes).map_err(|_| io::ErrorKind::UnexpectedEof.into())
}

/// The ready events of the file now.
pub fn poll(file: &impl AsRawFd) -> io::Result<u32> {
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    let mut fd = libc::pollfd { fd: file.as_raw_fd(), events: all, revents: 0 };
    // SAFETY: one structure.
    done(unsafe { libc::poll(&raw mut fd, 1, 0) }.into())?;
    Ok(fd.revents as u16 as u32)
}

/// The counter of an eventfd: reads, writes, limits and errors.
pub fn eventfds(_: &[String]) -> ProbeResult {
    let nonblocking = libc::EFD_NONBLOCK;
    let file = eventfd(3, nonblocking)?;
    ensure(poll(&file)? == IN | OUT, || format!("events {:#x}", poll(&file).unwrap_or(0)))?;
    ensure(take(&file)? == 3, || "not 3".into())?;
    expect_error("an empty counter", take(&file), libc::EAGAIN)?;
    add(&file, 5)?;
    add(&file, 6)?;
    ensure(take(&file)? == 11, || "not 11".into())?;
    expect_error("a write of the maximum", add(&file, u64::MAX), libc::EINVAL)?;
    add(&file, u64::MAX - 1)?;
    ensure(poll(&file)? == IN, || "writable when full".into())?;
    expect_error("a full counter", add(&file, 1), libc::EAGAIN)?;
    expect_error("a read of 7 bytes", read::<7>(&file), libc::EINVAL)?;
    ensure(read::<16>(&file)?.len() == 8, || "a read of 16 bytes".into())?;
    expect_error("a write of 7 bytes", write(&file, &[0; 7]), libc::EINVAL)?;

    let semaphore = eventfd(2, nonblocking | libc::EFD_SEMAPHORE)?;
    ensure(take(&semaphore)? == 1 && take(&semaphore)? == 1, || "a semaphore counts by 1".into())?;
    expect_error("an empty semaphore", take(&semaphore), libc::EAGAIN)?;
    expect_error("unknown flags", eventfd(0, 2), libc::EINVAL)?;

    let bad = |call, arguments: [u64; 6]| {
        // SAFETY: the pointers are invalid, or the call does not use them.
        done(unsafe { raw::call(call, arguments) })
    };
    add(&file, 1)?;
    expect_error("a write from nowhere", bad(libc::SYS_write, [number(&file), 8, 8, 0, 0, 0]), libc::EFAULT)?;
    expect_error("a read to nowhere", bad(libc::SYS_read, [number(&file), 8, 8, 0, 0, 0]), libc::EFAULT)?;
    expect_error("pread", bad(libc::SYS_pread64, [number(&file), 8, 8, 0, 0, 0]), libc::ESPIPE)?;
    ensure(bad(libc::SYS_lseek, [number(&file), 5, 0, 0, 0, 0])? == 0, || "lseek".into())?;

    // A thread that reads an empty counter, and one that writes a full one, sleep.
    let (empty, full) = (eventfd(0, 0)?, eventfd(0, 0)?);
    add(&full, u64::MAX - 1)?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| take(&empty));
        let writer = scope.spawn(|| add(&full, 1));
        thread::sleep(Duration::from_millis(30));
        ensure(!reader.is_finished() && !writer.is_finished(), || "not blocked".into())?;
        add(&empty, 7)?;
        take(&full)?;
        let results = (reader.join().map_err(|_| "panic")??, writer.join().map_err(|_| "panic")??);
        ensure(results == (7, 8) && take(&full)? == 1, || format!("{results:?}"))
    })
}

fn ppoll(fds: &mut [libc::pollfd], wait: Option<Duration>) -> io::Result<(i64, Duration)> {
    let mut time = wait.map(|wait| [wait.as_secs(), wait.subsec_nanos().into()]);
    let time_at = time.as_mut().map_or(0, |time| time.as_mut_ptr().expose_provenance() as u64);
    let at = fds.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: writes the structures and the time only.
    let count = done(unsafe { raw::call(libc::SYS_ppoll, [at, fds.len() as u64, time_at, 0, 8, 0]) })?;
    let [seconds, nanoseconds] = time.unwrap_or_default();
    Ok((count, Duration::new(seconds, nanoseconds as u32)))
}

fn wanted(file: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: file.as_raw_fd(), events, revents: 0x55 }
}

/// `ppoll` waits for several files, wakes for each of them, and reports closed descriptors.
pub fn polls(_: &[String]) -> ProbeResult {
    let files = [eventfd(0, 0)?, eventfd(0, 0)?];
    let mut fds = [wanted(&files[0], libc::POLLIN), wanted(&files[1], libc::POLLIN), wanted(&files[0], 0)];
    let started = Instant::now();
    let (count, left) = ppoll(&mut fds, Some(Duration::from_millis(20)))?;
    let waited = started.elapsed();
    ensure(count == 0 && left.is_zero(), || format!("{count} ready, {left:?} left"))?;
    ensure(waited >= Duration::from_millis(20), || format!("{waited:?}"))?;
    for (n, file) in files.iter().enumerate() {
        let (count, left) = thread::scope(|scope| {
            let waiter = scope.spawn(|| ppoll(&mut fds, Some(LIMIT)));
            thread::sleep(Duration::from_millis(20));
            add(file, 1)?;
            waiter.join().map_err(|_| Failure::from("panic"))?.map_err(Failure::from)
        })?;
        let found = fds.map(|fd| fd.revents);
        let expected = [libc::POLLIN * i16::from(n == 0), libc::POLLIN * i16::from(n == 1), 0];
        ensure(count == 1 && found == expected, || format!("{count} ready: {found:?}"))?;
        ensure(left < LIMIT && !left.is_zero(), || format!("{left:?} left"))?;
        take(file)?;
    }
    let mut closed = [wanted(&1000, libc::POLLIN), wanted(&-1, libc::POLLIN)];
    let (count, _) = ppoll(&mut closed, None)?;
    let found = closed.map(|fd| fd.revents);
    ensure(count == 1 && found == [libc::POLLNVAL, 0], || format!("{count} ready: {found:?}"))?;
    let bad = |arguments: [u64; 6]| {
        // SAFETY: the pointers are invalid, or the call is rejected.
        done(unsafe { raw::call(libc::SYS_ppoll, arguments) })
    };
    let at = fds.as_mut_ptr().expose_provenance() as u64;
    expect_error("no structures", bad([8, 1, 0, 0, 8, 0]), libc::EFAULT)?;
    expect_error("no time", bad([at, 1, 8, 0, 8, 0]), libc::EFAULT)?;
    expect_error("too many structures", bad([at, 1 << 31, 0, 0, 8, 0]), libc::EINVAL)?;
    expect_error("a signal mask of 7 bytes", bad([at, 0, 0, at, 7, 0]), libc::EINVAL)?;
    let invalid = [0u64, 1_000_000_000];
    let time = invalid.as_ptr().expose_provenance() as u64;
    expect_error("an invalid time", bad([at, 1, time, 0, 8, 0]), libc::EINVAL)
}

/// `pselect6` reports the files of each set, and rejects closed descriptors.
pub fn selects(_: &[String]) -> ProbeResult {
    let files = [eventfd(0, 0)?, eventfd(1, 0)?];
    let bit = |file: &OwnedFd| 1u64 << file.as_raw_fd();
    let select = |count: u64, mut sets: [u64; 2], time: Option<[u64; 2]>| {
        let [read, write] = sets.each_mut().map(|set| std::ptr::from_mut(set).expose_provenance() as u64);
        let time_at = time.as_ref().map_or(0, |time| time.as_ptr().expose_provenance() as u64);
        // SAFETY: the sets have 64 bits; the time is writable.
        let ready = unsafe { raw::call(libc::SYS_pselect6, [count, read, write, 0, time_at, 0]) };
        done(ready).map(|ready| (ready, sets))
    };
    let both = bit(&files[0]) | bit(&files[1]);
    let found = select(64, [both, both], None)?;
    ensure(found == (3, [bit(&files[1]), both]), || format!("{found:x?}"))?;
    let found = select(64, [bit(&files[0]), 0], Some([0, 10_000_000]))?;
    ensure(found == (0, [0, 0]), || format!("{found:x?}"))?;
    thread::scope(|scope| {
        let waiter = scope.spawn(|| select(64, [bit(&files[0]), 0], None));
        thread::sleep(Duration::from_millis(20));
        add(&files[0], 1)?;
        let found = waiter.join().map_err(|_| "panic")??;
        ensure(found == (1, [bit(&files[0]), 0]), || format!("{found:x?}"))
    })?;
    expect_error("a closed descriptor", select(64, [1 << 63, 0], None), libc::EBADF)?;
    expect_error("a negative count", select(u64::MAX, [0, 0], None), libc::EINVAL)
}

/// An epoll instance.
struct EpollFile(OwnedFd);

impl EpollFile {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        owned(unsafe { raw::call(libc::SYS_epoll_create1, [0; 6]) }).map(Self)
    }

    fn control(&self, operation: i32, file: &impl AsRawFd, events: u32, data: u64) -> io::Result<i64> {
        let mut event = libc::epoll_event { events, u64: data };
        let at = (&raw mut event).expose_provenance() as u64;
        let arguments = [number(&self.0), operation as u64, number(file), at, 0, 0];
        // SAFETY: reads one structure.
        done(unsafe { raw::call(libc::SYS_epoll_ctl, arguments) })
    }

    fn add(&self, file: &impl AsRawFd, events: u32, data: u64) -> io::Result<i64> {
        self.control(libc::EPOLL_CTL_ADD, file, events, data)
    }

    /// The data and the events of the ready files, at most `limit`.
    fn wait(&self, limit: usize, milliseconds: i32) -> io::Result<Vec<(u64, u32)>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: room for 16 events.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), limit.min(16) as i32, milliseconds)
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(events[..count as usize].iter().map(|event| (event.u64, event.events)).collect())
    }

    fn expect(&self, case: &str, expected: &[(u64, u32)]) -> ProbeResult {
        let found = self.wait(16, 0)?;
        ensure(found == expected, || format!("{case}: {found:x?} instead of {expected:x?}"))
    }
}

/// Level-triggered, edge-triggered, one-shot and changed interests.
pub fn epoll_triggers(_: &[String]) -> ProbeResult {
    let (epoll, files) = (EpollFile::new()?, [eventfd(0, 0)?, eventfd(0, 0)?]);
    let [first, second] = &files;
    epoll.add(first, IN, 1)?;
    epoll.add(second, IN | EDGE, 2)?;
    epoll.expect("nothing is ready", &[])?;
    add(second, 1)?;
    add(first, 1)?;
    epoll.expect("in the order of the events", &[(2, IN), (1, IN)])?;
    epoll.expect("the edge is reported once", &[(1, IN)])?;
    add(second, 1)?;
    epoll.expect("a second edge", &[(1, IN), (2, IN)])?;
    take(first)?;
    epoll.expect("no level", &[])?;
    add(second, 1)?;
    take(second)?;
    epoll.expect("not ready any more", &[])?;

    epoll.control(libc::EPOLL_CTL_MOD, first, IN | libc::EPOLLONESHOT as u32, 3)?;
    add(first, 1)?;
    epoll.expect("one shot", &[(3, IN)])?;
    add(first, 1)?;
    epoll.expect("disabled", &[])?;
    epoll.control(libc::EPOLL_CTL_MOD, first, IN | OUT, 4)?;
    epoll.expect("enabled, and ready already", &[(4, IN | OUT)])?;
    epoll.control(libc::EPOLL_CTL_MOD, second, OUT | EDGE, 5)?;
    let one = epoll.wait(1, 0)?;
    let other = epoll.wait(1, 0)?;
    ensure(one.len() == 1 && other.len() == 1 && one != other, || format!("{one:?}, {other:?}"))?;
    epoll.control(libc::EPOLL_CTL_DEL, first, 0, 0)?;
    epoll.expect("removed", &[])?;

    ensure(poll(&epoll.0)? == 0, || "an instance without events is ready".into())?;
    add(second, 1)?;
    take(second)?;
    ensure(poll(&epoll.0)? == IN, || "an instance with an event is not ready".into())?;

    let empty = EpollFile::new()?;
    empty.add(first, IN, 1)?;
    take(first)?;
    for wake in [false, true] {
        let started = Instant::now();
        let found = thread::scope(|scope| {
            let waiter = scope.spawn(|| empty.wait(16, if wake { 60_000 } else { 20 }));
            thread::sleep(Duration::from_millis(10));
            if wake {
                add(first, 1)?;
            }
            waiter.join().map_err(|_| Failure::from("panic"))?.map_err(Failure::from)
        })?;
        let time = started.elapsed();
        ensure(found.len() == usize::from(wake), || format!("{found:?}"))?;
        ensure(time < LIMIT && (wake || time >= Duration::from_millis(20)), || format!("{time:?}"))?;
    }
    Ok(())
}

/// Errors of `epoll_ctl` and `epoll_pwait`.
pub fn epoll_errors(_: &[String]) -> ProbeResult {
    let (epoll, file) = (EpollFile::new()?, eventfd(0, 0)?);
    let (change, remove) = (libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_DEL);
    expect_error("a change before", epoll.control(change, &file, IN, 0), libc::ENOENT)?;
    expect_error("a removal before", epoll.control(remove, &file, IN, 0), libc::ENOENT)?;
    epoll.add(&file, IN, 0)?;
    expect_error("the same again", epoll.add(&file, IN, 0), libc::EEXIST)?;
    expect_error("an unknown operation", epoll.control(9, &file, IN, 0), libc::EINVAL)?;
    expect_error("itself", epoll.add(&epoll.0, IN, 0), libc::EINVAL)?;
    expect_error("a closed file", epoll.add(&1000, IN, 0), libc::EBADF)?;
    let regular = std::fs::File::open(crate::files::this_program()?)?;
    expect_error("a regular file", epoll.add(&regular, IN, 0), libc::EPERM)?;
    expect_error("not an instance", EpollFile(eventfd(0, 0)?).add(&file, IN, 0), libc::EINVAL)?;
    expect_error("no room", epoll.wait(0, 0), libc::EINVAL)?;
    let exclusive = libc::EPOLLEXCLUSIVE as u32;
    expect_error("exclusive change", epoll.control(change, &file, IN | exclusive, 0), libc::EINVAL)?;
    let (other, second) = (EpollFile::new()?, eventfd(0, 0)?);
    expect_error("exclusive instance", epoll.add(&other.0, IN | exclusive, 0), libc::EINVAL)?;
    let oneshot = IN | exclusive | libc::EPOLLONESHOT as u32;
    expect_error("exclusive one shot", epoll.add(&second, oneshot, 0), libc::EINVAL)?;
    epoll.add(&second, IN | exclusive, 0)?;
    expect_error("a change of exclusive", epoll.control(change, &second, IN, 0), libc::EINVAL)?;
    let bad = |call, arguments: [u64; 6]| {
        // SAFETY: the pointers are invalid, or the call is rejected.
        done(unsafe { raw::call(call, arguments) })
    };
    let (instance, file) = (number(&epoll.0), number(&file));
    let control = |operation: i32, at| bad(libc::SYS_epoll_ctl, [instance, operation as u64, file, at, 0, 0]);
    expect_error("no event", control(change, 8), libc::EFAULT)?;
    expect_error("unknown flags", bad(libc::SYS_epoll_create1, [1, 0, 0, 0, 0, 0]), libc::EINVAL)?;
    let wait = |at: u64, count: u64| bad(libc::SYS_epoll_pwait, [instance, at, count, 0, 0, 8]);
    expect_error("too many events", wait(8, 1 << 31), libc::EINVAL)?;
    expect_error("a range past the address space", wait(u64::MAX - 7, 1), libc::EFAULT)?;
    add(&second, 1)?;
    expect_error("an event to nowhere", wait(8, 1), libc::EFAULT)?;
    ensure(epoll.wait(16, 0)?.len() == 1, || "the event is lost".into())
}

/// Instances in instances: events pass through, cycles and deep paths are refused.
pub fn epoll_nesting(_: &[String]) -> ProbeResult {
    let file = eventfd(0, 0)?;
    let all = (0..7).map(|_| EpollFile::new()).collect::<io::Result<Vec<_>>>()?;
    all[0].add(&file, IN, 0)?;
    for n in 1..=4 {
        all[n].add(&all[n - 1].0, IN, n as u64)?;
    }
    expect_error("a path of 5 instances in an instance", all[5].add(&all[4].0, IN, 0), libc::ELOOP)?;
    expect_error("an instance at the end", all[0].add(&all[6].0, IN, 0), libc::ELOOP)?;
    expect_error("a cycle", all[0].add(&all[2].0, IN, 0), libc::ELOOP)?;
    all[4].expect("no event", &[])?;
    thread::scope(|scope| {
        let waiter = scope.spawn(|| all[4].wait(16, 60_000));
        thread::sleep(Duration::from_millis(20));
        add(&file, 1)?;
        let found = waiter.join().map_err(|_| "panic")??;
        ensure(found == [(4, IN)], || format!("{found:x?}"))
    })?;
    take(&file)?;
    all[4].expect("the event is gone", &[])?;
    all[4].control(libc::EPOLL_CTL_DEL, &all[3].0, 0, 0)?;
    all[5].add(&all[3].0, IN, 0)?;
    add(&file, 1)?;
    all[5].expect("by another path", &[(0, IN)])
}

/// An interest ends with the last descriptor of its file, not with that by which it was added.
pub fn epoll_close(_: &[String]) -> ProbeResult {
    let (epoll, file) = (EpollFile::new()?, eventfd(1, 0)?);
    let duplicate = file.try_clone()?;
    epoll.add(&file, IN, 1)?;
    epoll.add(&duplicate, IN, 2)?;
    epoll.expect("both descriptors", &[(1, IN), (2, IN)])?;
    drop(duplicate);
    epoll.expect("the file is open", &[(1, IN), (2, IN)])?;
    drop(file);
    epoll.expect("the file is closed", &[])?;

    // A closed file ends no wait of another thread; nor does a closed instance.
    let file = eventfd(0, 0)?;
    epoll.add(&file, IN, 3)?;
    thread::scope(|scope| {
        let waiter = scope.spawn(|| epoll.wait(16, 100));
        thread::sleep(Duration::from_millis(20));
        drop(file);
        let found = waiter.join().map_err(|_| "panic")??;
        ensure(found.is_empty(), || format!("{found:x?}"))
    })?;
    // Closed in any order, with interests in each other's files.
    for order in 0..6 {
        let (inner, outer, file) = (EpollFile::new()?, EpollFile::new()?, eventfd(1, 0)?);
        inner.add(&file, IN, 0)?;
        outer.add(&inner.0, IN | EDGE, 0)?;
        outer.add(&file, IN, 0)?;
        outer.wait(16, 0)?;
        let mut files = vec![inner.0, outer.0, file];
        drop(files.remove(order % 3));
        drop(files.remove(order / 3));
    }
    Ok(())
}

/// An exclusive interest wakes one of the waiting threads, or more; every event is taken.
pub fn epoll_exclusive(_: &[String]) -> ProbeResult {
    const EVENTS: u64 = 200;
    let file = eventfd(0, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK)?;
    let instances = (0..3).map(|_| EpollFile::new()).collect::<io::Result<Vec<_>>>()?;
    for epoll in &instances {
        epoll.add(&file, IN | libc::EPOLLEXCLUSIVE as u32, 0)?;
    }
    let taken = std::sync::atomic::AtomicU64::new(0);
    let (taken, file) = (&taken, &file);
    thread::scope(|scope| {
        let start = |epoll| {
            scope.spawn(move || {
                while taken.load(std::sync::atomic::Ordering::Relaxed) < EVENTS {
                    EpollFile::wait(epoll, 16, 50)?;
                    while take(file).is_ok() {
                        taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
                Ok::<_, io::Error>(())
            })
        };
        let threads: Vec<_> = instances.iter().map(start).collect();
        for _ in 0..EVENTS {
            add(file, 1)?;
            thread::yield_now();
        }
        for thread in threads {
            thread.join().map_err(|_| "panic")??;
        }
        Ok(())
    })
}
