//! Connected sockets: both directions, shutdown, errors, and blocking.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::thread;
use std::time::Duration;

use crate::epolls::poll;
use crate::result::{ProbeResult, ensure, expect_error};

const IN: u32 = libc::POLLIN as u32;
const OUT: u32 = libc::POLLOUT as u32;
const ENDED: u32 = IN | OUT | libc::POLLRDHUP as u32;
const HUNG_UP: u32 = ENDED | libc::POLLHUP as u32;

fn result(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn send(file: &impl AsRawFd, bytes: &[u8], flags: i32) -> io::Result<usize> {
    // SAFETY: reads the slice.
    result(unsafe { libc::send(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

fn receive(file: &impl AsRawFd, bytes: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: writes the slice.
    result(unsafe { libc::recv(file.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) })
}

fn pair(family: i32, kind: i32, protocol: i32) -> io::Result<usize> {
    // SAFETY: each call fails before it writes the numbers.
    result(unsafe { libc::socketpair(family, kind, protocol, ptr::null_mut()) } as isize)
}

fn event(socket: &UnixStream, expected: u32) -> ProbeResult {
    let found = poll(socket)?;
    ensure(found == expected, || format!("events {found:#x} instead of {expected:#x}"))
}

/// Bytes in both directions, attributes, and wrong arguments.
pub fn bytes(_: &[String]) -> ProbeResult {
    let (mut first, mut second) = UnixStream::pair()?;
    event(&first, OUT)?;
    first.write_all(b"to the second")?;
    second.write_all(b"to the first")?;
    event(&first, IN | OUT)?;
    let mut bytes = [0; 32];
    ensure(second.read(&mut bytes)? == 13 && &bytes[..13] == b"to the second", || format!("{bytes:?}"))?;
    ensure(receive(&first, &mut bytes[..2], 0)? == 2 && &bytes[..2] == b"to", || format!("{bytes:?}"))?;
    ensure(first.read(&mut bytes)? == 10 && &bytes[..10] == b" the first", || format!("{bytes:?}"))?;
    ensure(send(&first, b"sent", libc::MSG_NOSIGNAL)? == 4, || "a short send".into())?;
    ensure(receive(&second, &mut bytes, libc::MSG_DONTWAIT)? == 4, || "4 bytes".into())?;
    expect_error("nothing to receive", receive(&second, &mut bytes, libc::MSG_DONTWAIT), libc::EAGAIN)?;
    second.set_nonblocking(true)?;
    expect_error("nothing to read", second.read(&mut bytes), libc::EAGAIN)?;
    let (mut address, mut len) = ([0u8; 16], 16);
    second.set_nonblocking(false)?;
    first.write_all(b"x")?;
    // SAFETY: writes the byte, the address and its length.
    let received = result(unsafe {
        let (to, at) = (bytes.as_mut_ptr().cast(), address.as_mut_ptr().cast());
        libc::recvfrom(second.as_raw_fd(), to, 1, 0, at, &raw mut len)
    })?;
    ensure(received == 1 && len == 0, || format!("an address of {len} bytes"))?;
    // SAFETY: reads the slices.
    let sent = result(unsafe {
        let (from, at) = (bytes.as_ptr().cast(), address.as_ptr().cast());
        libc::sendto(first.as_raw_fd(), from, 1, 0, at, 2)
    });
    expect_error("an address", sent, libc::EISCONN)?;

    let status = |socket: &UnixStream| {
        // SAFETY: plain data, which `fstat` fills.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: writes one structure.
        result(unsafe { libc::fstat(socket.as_raw_fd(), &raw mut stat) } as isize).map(|_| stat)
    };
    let (found, other) = (status(&first)?, status(&second)?);
    ensure(found.st_mode == libc::S_IFSOCK | 0o777, || format!("mode {:o}", found.st_mode))?;
    ensure(found.st_ino != other.st_ino, || "both have one inode".into())?;
    let file = File::open("/")?;
    expect_error("send to a directory", send(&file, b"x", 0), libc::ENOTSOCK)?;
    expect_error("receive from a directory", receive(&file, &mut bytes, 0), libc::ENOTSOCK)?;
    // SAFETY: no pointer.
    let shutdown = |socket, how| result(unsafe { libc::shutdown(socket, how) } as isize);
    expect_error("shutdown of a directory", shutdown(file.as_raw_fd(), 0), libc::ENOTSOCK)?;
    expect_error("an unknown half", shutdown(first.as_raw_fd(), 3), libc::EINVAL)?;
    let stream = libc::SOCK_STREAM;
    expect_error("nowhere to write the numbers", pair(libc::AF_UNIX, stream, 0), libc::EFAULT)?;
    expect_error("an unknown flag", pair(libc::AF_UNIX, stream | 0x10, 0), libc::EINVAL)
}

/// Each half ends alone; the close of a socket ends both.
pub fn halves(_: &[String]) -> ProbeResult {
    let mut bytes = [0; 8];
    let (mut first, mut second) = UnixStream::pair()?;
    first.write_all(b"last")?;
    first.shutdown(Shutdown::Write)?;
    event(&first, OUT)?;
    event(&second, ENDED)?;
    ensure(second.read(&mut bytes)? == 4 && second.read(&mut bytes)? == 0, || "the end".into())?;
    // Rust ignores SIGPIPE.
    expect_error("a write after shutdown", first.write(b"x"), libc::EPIPE)?;
    second.write_all(b"back")?;
    second.shutdown(Shutdown::Both)?;
    event(&second, HUNG_UP)?;
    event(&first, HUNG_UP)?;
    ensure(first.read(&mut bytes)? == 4 && first.read(&mut bytes)? == 0, || "bytes are lost".into())?;

    let (mut first, mut second) = UnixStream::pair()?;
    second.write_all(b"kept")?;
    first.shutdown(Shutdown::Read)?;
    expect_error("no receiver", second.write(b"x"), libc::EPIPE)?;
    ensure(first.read(&mut bytes)? == 4 && first.read(&mut bytes)? == 0, || "received before".into())?;
    first.write_all(b"open")?;
    event(&second, IN | OUT)?;

    let (first, mut second) = UnixStream::pair()?;
    drop(first);
    event(&second, HUNG_UP)?;
    ensure(second.read(&mut bytes)? == 0, || "bytes of no sender".into())?;
    expect_error("a write without a peer", second.write(b"x"), libc::EPIPE)?;
    // SAFETY: the default action, which `MSG_NOSIGNAL` prevents.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let sent = send(&second, b"x", libc::MSG_NOSIGNAL);
    // SAFETY: the action that was there before.
    unsafe { libc::signal(libc::SIGPIPE, previous) };
    expect_error("a send without a peer", sent, libc::EPIPE)
}

/// A sender waits for room and a receiver for bytes, until the peer closes.
pub fn blocking(_: &[String]) -> ProbeResult {
    let (mut first, mut second) = UnixStream::pair()?;
    let long: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let received = thread::scope(|scope| {
        let sender = scope.spawn(|| first.write_all(&long));
        let mut received = vec![0; long.len()];
        second.read_exact(&mut received)?;
        sender.join().map_err(|_| io::ErrorKind::Other)??;
        Ok::<_, io::Error>(received)
    })?;
    ensure(received == long, || "other bytes".into())?;
    for _ in 0..20 {
        let ((mut reader, peer), (mut writer, other_peer)) = (UnixStream::pair()?, UnixStream::pair()?);
        thread::scope(|scope| {
            let reads = scope.spawn(move || reader.read(&mut [0]));
            let writes = scope.spawn(move || writer.write_all(&vec![0; 1_000_000]));
            thread::sleep(Duration::from_millis(2));
            drop(peer);
            other_peer.shutdown(Shutdown::Both)?;
            let read = reads.join().map_err(|_| "panic")??;
            ensure(read == 0, || format!("{read} bytes"))?;
            expect_error("a sleeping sender", writes.join().map_err(|_| "panic")?, libc::EPIPE)
        })?;
    }
    Ok(())
}
