//! Processes as files: `pidfd_open`, `pidfd_send_signal` and `waitid` with `P_PIDFD`.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use crate::epolls::poll;
use crate::processes::{check, expect_exit, fork, wait};
use crate::result::{ProbeResult, ensure, expect_error};

const IN: u32 = libc::POLLIN as u32;

fn open(id: i32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer.
    let number = check(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

fn send(file: &impl AsRawFd, signal: i32, code: Option<(i32, i32)>) -> io::Result<i64> {
    // SAFETY: plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    (info.si_signo, info.si_code) = code.unwrap_or_default();
    let info = code.map_or(ptr::null(), |_| &raw const info);
    // SAFETY: reads the information, if any.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, file.as_raw_fd(), signal, info, 0) })
}

/// Waits, and returns the id of the child and the code; zeros without one.
fn wait_for(file: &impl AsRawFd, options: i32) -> io::Result<(i32, i32)> {
    // SAFETY: plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes the information.
    let result = unsafe { libc::waitid(libc::P_PIDFD, file.as_raw_fd() as u32, &raw mut info, options) };
    check(result.into())?;
    // SAFETY: `waitid` has written these fields.
    Ok((unsafe { info.si_pid() }, info.si_code))
}

/// A child that runs until it is killed.
fn sleeping_child() -> Result<i32, crate::result::Failure> {
    fork(|| {
        loop {
            // SAFETY: waits.
            unsafe { libc::pause() };
        }
    })
}

/// A pidfd becomes readable when its process exits, also for a thread that waits for that.
pub fn exits(_: &[String]) -> ProbeResult {
    let child = sleeping_child()?;
    let file = open(child, 0)?;
    ensure(poll(&file)? == 0, || "a running process is readable".into())?;
    ensure(wait_for(&file, libc::WEXITED | libc::WNOHANG)? == (0, 0), || "an exit".into())?;
    let nonblocking = open(child, libc::O_NONBLOCK as u32)?;
    expect_error("no exit yet", wait_for(&nonblocking, libc::WEXITED), libc::EAGAIN)?;
    let found = wait_for(&nonblocking, libc::WEXITED | libc::WNOHANG)?;
    ensure(found == (0, 0), || format!("{found:?} with WNOHANG"))?;
    let other = sleeping_child()?;
    const LIMIT: Duration = Duration::from_secs(10);
    let (events, waited) = thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let started = Instant::now();
            let mut fd = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure.
            let polled = unsafe { libc::poll(&raw mut fd, 1, LIMIT.as_millis() as i32) };
            check(polled.into()).map(|_| (fd.revents, started.elapsed()))
        });
        thread::sleep(Duration::from_millis(5));
        // The exit of another process is none of this one.
        send(&open(other, 0)?, libc::SIGKILL, None)?;
        wait(other, 0)?;
        thread::sleep(Duration::from_millis(5));
        send(&file, libc::SIGTERM, None)?;
        waiter.join().map_err(|_| io::ErrorKind::Other)?
    })?;
    ensure(events == libc::POLLIN, || format!("events {events:#x}"))?;
    ensure(waited < LIMIT, || "the exit woke no thread".into())?;
    let options = libc::WEXITED | libc::WNOWAIT;
    let expected = (child, libc::CLD_KILLED);
    ensure(wait_for(&file, options)? == expected, || "no exit".into())?;
    // A zombie has a pidfd, and receives nothing.
    ensure(poll(&open(child, 0)?)? == IN, || "a zombie is not readable".into())?;
    send(&file, libc::SIGTERM, None)?;
    ensure(wait_for(&file, libc::WEXITED)? == expected, || "another exit".into())?;
    ensure(poll(&file)? & IN != 0, || "a process without zombie is not readable".into())?;
    expect_error("a second wait", wait_for(&file, libc::WEXITED), libc::ECHILD)?;
    expect_error("a signal after the wait", send(&file, libc::SIGTERM, None), libc::ESRCH)?;
    expect_error("a pidfd after the wait", open(child, 0), libc::ESRCH)
}

/// Wrong ids, flags, files and signals.
pub fn errors(_: &[String]) -> ProbeResult {
    for (id, flags, error) in [
        (-1, 0, libc::EINVAL),
        (0, 0, libc::EINVAL),
        (1 << 29, 0, libc::ESRCH),
        (std::process::id() as i32, 1, libc::EINVAL),
    ] {
        expect_error("pidfd_open", open(id, flags), error)?;
    }
    let own = open(std::process::id() as i32, 0)?;
    // SAFETY: no pointer.
    let flags = check(unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GETFD) }.into())?;
    ensure(flags == i64::from(libc::FD_CLOEXEC), || "inherited by execve".into())?;
    send(&own, 0, None)?;
    // SAFETY: no pointer.
    let is_main_thread = unsafe { libc::gettid() } == std::process::id() as i32;
    let sent = send(&own, libc::SIGURG, Some((libc::SIGURG, libc::SI_USER)));
    ensure(sent.is_ok() == is_main_thread, || format!("the main thread {is_main_thread}: {sent:?}"))?;
    expect_error("a wait for itself", wait_for(&own, libc::WEXITED), libc::ECHILD)?;
    expect_error("no options", wait_for(&own, 0), libc::EINVAL)?;
    expect_error("a read", std::fs::File::from(own.try_clone()?).read(&mut [0; 8]), libc::EINVAL)?;
    expect_error("an unknown signal", send(&own, 65, None), libc::EINVAL)?;
    let code = Some((libc::SIGUSR1, libc::SI_QUEUE));
    expect_error("another signal", send(&own, libc::SIGUSR2, code), libc::EINVAL)?;
    let file = std::fs::File::open("/")?;
    expect_error("a signal to a directory", send(&file, 0, None), libc::EBADF)?;
    expect_error("a wait for a directory", wait_for(&file, libc::WEXITED), libc::EBADF)?;
    // SAFETY: no pointer.
    let with_flags =
        check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, own.as_raw_fd(), 0, 0, 1u32 << 31) });
    expect_error("flags", with_flags, libc::EINVAL)?;

    let child = sleeping_child()?;
    let other = open(child, 0)?;
    for code in [libc::SI_USER, libc::SI_KERNEL, libc::SI_TKILL] {
        let sent = send(&other, libc::SIGUSR1, Some((libc::SIGUSR1, code)));
        expect_error("the code of another sender", sent, libc::EPERM)?;
    }
    send(&other, libc::SIGKILL, Some((libc::SIGKILL, libc::SI_QUEUE)))?;
    wait(child, 0)?;
    expect_exit("a later child", fork(|| 5)?, 5)
}

/// Creates a child that exits with status 7, and stores its pidfd at `to`.
fn clone_with_pidfd(flags: i32, to: *mut i32) -> io::Result<i64> {
    let flags = libc::CLONE_PIDFD | flags | libc::SIGCHLD;
    // SAFETY: the child exits at once; `to` is writable, or is tested not to be.
    let result = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, to, 0, 0) });
    if matches!(result, Ok(0)) {
        // SAFETY: the child runs no destructor of its parent.
        unsafe { libc::_exit(7) };
    }
    result
}

/// A clone with `CLONE_PIDFD` opens the pidfd of the child, unless the clone fails.
pub fn of_clone(_: &[String]) -> ProbeResult {
    let mut number = -1;
    let child = clone_with_pidfd(0, &raw mut number)?;
    ensure(number >= 0, || "no pidfd".into())?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    let expected = (child as i32, libc::CLD_EXITED);
    let found = wait_for(&file, libc::WEXITED)?;
    ensure(found == expected, || format!("{found:?} instead of {expected:?}"))?;
    // SAFETY: no pointer.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) }.into())?;
    ensure(flags == i64::from(libc::FD_CLOEXEC), || "inherited by execve".into())?;
    let both = clone_with_pidfd(libc::CLONE_PARENT_SETTID, &raw mut number);
    expect_error("two values at one address", both, libc::EINVAL)?;
    expect_error("no address", clone_with_pidfd(0, ptr::null_mut()), libc::EFAULT)?;
    // The descriptor of the failed clone is free again.
    let next = std::fs::File::open("/")?.as_raw_fd();
    ensure(next == number + 1, || format!("descriptor {next} after {number}"))?;
    let mut status = 0;
    // SAFETY: writes the status.
    let none = check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }.into());
    expect_error("no other child", none, libc::ECHILD)
}

/// `PIDFD_GET_INFO` has the ids of the process. Linux has it since 6.13.
pub fn information(_: &[String]) -> ProbeResult {
    // The first and the last version, with 64 and 88 bytes.
    const GET_INFO: [u64; 2] = [0xc040_ff0b, 0xc058_ff0b];
    let child = sleeping_child()?;
    let file = open(child, 0)?;
    let get = |request: u64, info: &mut [u32; 24]| {
        // SAFETY: writes the information, which has room for all versions.
        check(unsafe { libc::ioctl(file.as_raw_fd(), request as _, info.as_mut_ptr()) }.into())
    };
    let mut results = Vec::new();
    for request in GET_INFO {
        let mut info = [0; 24];
        results.push(get(request, &mut info).map(|_| [info[0] & 3, info[4], info[5], info[6], info[7]]));
    }
    let short = get(0xc020_ff0b, &mut [0; 24]);
    // SAFETY: no pointer.
    check(unsafe { libc::kill(child, libc::SIGKILL) }.into())?;
    wait(child, 0)?;
    if results[0].as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOTTY)) {
        println!("  no PIDFD_GET_INFO");
        return Ok(());
    }
    let (id, own) = (child as u32, std::process::id());
    for result in results {
        let seen = result?;
        ensure(seen == [3, id, id, own, 0], || format!("the information on {id} is {seen:?}"))?;
    }
    expect_error("a structure of 32 bytes", short, libc::ENOTTY)?;
    expect_error("a process that was waited for", get(GET_INFO[0], &mut [0; 24]), libc::ESRCH)
}
