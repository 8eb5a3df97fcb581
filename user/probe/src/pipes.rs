//! Pipes: order, limits, blocking, and the close of an end.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::thread;
use std::time::Duration;

use crate::epolls::poll;
use crate::raw;
use crate::result::{ProbeResult, ensure, expect_error};

const IN: u32 = libc::POLLIN as u32;
const OUT: u32 = libc::POLLOUT as u32;
/// The default capacity.
const CAPACITY: usize = 65_536;

/// The read end and the write end of a new pipe.
fn pipe(flags: i32) -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptors are new, and owned by nothing else.
    let [reader, writer] = ends.map(|end| File::from(unsafe { OwnedFd::from_raw_fd(end) }));
    Ok((reader, writer))
}

fn control(file: &File, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: no pointer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn waiting_bytes(file: &File) -> io::Result<i32> {
    let mut count = 0;
    // SAFETY: writes one number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(count) }
}

/// Bytes leave in order, also by I/O vectors; attributes and errors.
pub fn bytes(_: &[String]) -> ProbeResult {
    let (mut reader, mut writer) = pipe(0)?;
    ensure(poll(&reader)? == 0 && poll(&writer)? == OUT, || "an empty pipe".into())?;
    ensure(writer.write(b"abc")? == 3 && writer.write(b"defgh")? == 5, || "a short write".into())?;
    ensure(poll(&reader)? == IN && waiting_bytes(&reader)? == 8, || "8 bytes".into())?;
    let (mut first, mut second) = ([0; 2], [0; 3]);
    let parts = &mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    ensure(reader.read_vectored(parts)? == 5, || "readv".into())?;
    ensure((&first, &second) == (b"ab", b"cde"), || format!("{first:?} {second:?}"))?;
    ensure(writer.write_vectored(&[IoSlice::new(b"12"), IoSlice::new(b"345")])? == 5, || "writev".into())?;
    let mut rest = [0; 20];
    ensure(reader.read(&mut rest)? == 8 && &rest[..8] == b"fgh12345", || format!("{rest:?}"))?;
    ensure(reader.read(&mut [])? == 0 && writer.write(&[])? == 0, || "no bytes".into())?;

    let (found, other) = (reader.metadata()?, writer.metadata()?);
    ensure(found.file_type().is_fifo() && found.ino() == other.ino(), || format!("{found:?}"))?;
    ensure(pipe(0)?.0.metadata()?.ino() != found.ino(), || "two pipes have the same inode".into())?;
    expect_error("a write to the read end", reader.write(b"x"), libc::EBADF)?;
    expect_error("a read from the write end", writer.read(&mut [0]), libc::EBADF)?;
    expect_error("unknown flags", pipe(libc::O_APPEND), libc::EINVAL)?;
    let call = |number, arguments: [u64; 6]| {
        // SAFETY: the pointers are invalid.
        let result = unsafe { raw::call(number, arguments) };
        if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result) }
    };
    let [read_number, write_number] = [&reader, &writer].map(|end| end.as_raw_fd() as u64);
    expect_error("lseek", call(libc::SYS_lseek, [read_number, 0, 0, 0, 0, 0]), libc::ESPIPE)?;
    expect_error("a write from nowhere", call(libc::SYS_write, [write_number, 8, 8, 0, 0, 0]), libc::EFAULT)?;
    writer.write_all(b"xyz")?;
    expect_error("a read to nowhere", call(libc::SYS_read, [read_number, 8, 8, 0, 0, 0]), libc::EFAULT)?;
    let kept = reader.read(&mut rest)?;
    ensure(kept == 3, || format!("{kept} bytes are left"))?;
    let lowest = pipe(0)?.0.as_raw_fd();
    expect_error("a pipe to nowhere", call(libc::SYS_pipe2, [8, 0, 0, 0, 0, 0]), libc::EFAULT)?;
    let next = pipe(0)?.0.as_raw_fd();
    ensure(next == lowest, || format!("descriptor {next} after {lowest}"))?;

    let (first, second) = pipe(libc::O_CLOEXEC | libc::O_NONBLOCK)?;
    for end in [&first, &second] {
        ensure(control(end, libc::F_GETFD, 0)? == libc::FD_CLOEXEC, || "F_GETFD".into())?;
        ensure(control(end, libc::F_GETFL, 0)? & libc::O_NONBLOCK != 0, || "F_GETFL".into())?;
    }
    Ok(())
}

/// A full pipe, short and long writes, and a changed capacity.
pub fn capacity(_: &[String]) -> ProbeResult {
    let (mut reader, mut writer) = pipe(libc::O_NONBLOCK)?;
    expect_error("an empty pipe", reader.read(&mut [0]), libc::EAGAIN)?;
    let written = writer.write(&[1; 100_000])?;
    ensure(written == CAPACITY, || format!("{written} bytes of a long write"))?;
    expect_error("a full pipe", writer.write(&[1]), libc::EAGAIN)?;
    expect_error("a full pipe and a long write", writer.write(&[1; 5000]), libc::EAGAIN)?;
    ensure(poll(&writer)? == 0, || "a full pipe is writable".into())?;
    let mut page = [0; 4096];
    reader.read_exact(&mut page)?;
    ensure(poll(&writer)? == OUT && writer.write(&[2; 4096])? == 4096, || "a page is free".into())?;
    reader.read_exact(&mut page)?;
    let written = writer.write(&[3; 8192])?;
    ensure(written == 4096, || format!("{written} of 8192 bytes in a page"))?;

    let size = |file: &File, bytes| control(file, libc::F_SETPIPE_SZ, bytes);
    ensure(control(&reader, libc::F_GETPIPE_SZ, 0)? == CAPACITY as i32, || "F_GETPIPE_SZ".into())?;
    expect_error("a capacity below the content", size(&writer, 4096), libc::EBUSY)?;
    let (mut reader, mut writer) = pipe(libc::O_NONBLOCK)?;
    for (bytes, expected) in [(100, 4096), (4097, 8192), (1 << 20, 1 << 20), (8192, 8192)] {
        let got = size(&reader, bytes)?;
        ensure(got == expected, || format!("capacity {got} for {bytes}"))?;
    }
    let written = writer.write(&[1; 100_000])?;
    ensure(written == 8192, || format!("{written} bytes"))?;
    size(&writer, 16_384)?;
    ensure(writer.write(&[1; 100_000])? == 8192, || "a larger capacity".into())?;
    let mut all = Vec::new();
    drop(writer);
    ensure(reader.read_to_end(&mut all)? == 16_384, || format!("{} bytes", all.len()))?;
    expect_error("a capacity of a file", size(&File::open("/")?, 4096), libc::EBADF)
}

/// Writers and readers sleep and are woken; short writes of several threads are not interleaved.
pub fn blocking(_: &[String]) -> ProbeResult {
    const BLOCKS: usize = 100;
    let (mut reader, mut writer) = pipe(0)?;
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let received = thread::scope(|scope| {
        let sender = scope.spawn(|| writer.write(&long));
        let mut received = Vec::<u8>::new();
        let mut part = [0; 7000];
        while received.len() < long.len() {
            if received.len() < 70_000 {
                thread::sleep(Duration::from_millis(2));
            }
            let count = reader.read(&mut part)?;
            received.extend(&part[..count]);
        }
        let sent = sender.join().map_err(|_| io::ErrorKind::Other)??;
        Ok::<_, io::Error>((sent, received))
    })?;
    ensure(received.0 == long.len() && received.1 == long, || format!("{} bytes sent", received.0))?;

    let (_reader, mut writer) = pipe(0)?;
    ensure(writer.write(&[0; CAPACITY])? == CAPACITY, || "an empty pipe".into())?;
    let other = writer.try_clone()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || writer.write(&[0; 4096]));
        thread::sleep(Duration::from_millis(5));
        control(&other, libc::F_SETPIPE_SZ, 2 * CAPACITY as i32)?;
        let sent = sender.join().map_err(|_| "panic")??;
        ensure(sent == 4096, || format!("{sent} bytes after the capacity was raised"))
    })?;

    let (mut reader, writer) = pipe(0)?;
    thread::scope(|scope| {
        let writers: Vec<_> = (1..=3u8)
            .map(|byte| {
                let mut writer = &writer;
                scope.spawn(move || (0..BLOCKS).try_for_each(|_| writer.write_all(&[byte; 4096])))
            })
            .collect();
        let mut block = [0; 4096];
        for n in 0..3 * BLOCKS {
            reader.read_exact(&mut block)?;
            ensure(block.iter().all(|&byte| byte == block[0]), || format!("block {n} is mixed"))?;
        }
        writers.into_iter().try_for_each(|writer| Ok(writer.join().map_err(|_| "panic")??))
    })
}

/// The end of the last writer is an end of file, and that of the last reader an error, also for threads that
/// sleep.
pub fn closed_ends(_: &[String]) -> ProbeResult {
    let hang_up = libc::POLLHUP as u32;
    let (mut reader, mut writer) = pipe(0)?;
    writer.write_all(b"last")?;
    let duplicate = writer.try_clone()?;
    drop(writer);
    ensure(poll(&reader)? == IN, || "a writer is left".into())?;
    drop(duplicate);
    ensure(poll(&reader)? == IN | hang_up, || "no writer, but bytes".into())?;
    let mut bytes = [0; 10];
    ensure(reader.read(&mut bytes)? == 4 && reader.read(&mut bytes)? == 0, || "the end".into())?;
    ensure(poll(&reader)? == hang_up, || "no writer, no bytes".into())?;

    let (reader, mut writer) = pipe(0)?;
    drop(reader);
    ensure(poll(&writer)? == OUT | libc::POLLERR as u32, || "no reader".into())?;
    // Rust ignores SIGPIPE.
    expect_error("a write without a reader", writer.write(b"x"), libc::EPIPE)?;

    for _ in 0..20 {
        let ((mut reader, writer), (other_reader, mut other_writer)) = (pipe(0)?, pipe(0)?);
        let _ = other_writer.write(&[0; CAPACITY])?;
        let mut third_writer = other_writer.try_clone()?;
        thread::scope(|scope| {
            let reads = scope.spawn(move || reader.read(&mut [0]));
            let short = scope.spawn(move || other_writer.write(&[0]));
            let long = scope.spawn(move || third_writer.write(&[0; 10_000]));
            thread::sleep(Duration::from_millis(2));
            drop(writer);
            drop(other_reader);
            let read = reads.join().map_err(|_| "panic")??;
            ensure(read == 0, || format!("{read} bytes"))?;
            expect_error("a sleeping writer", short.join().map_err(|_| "panic")?, libc::EPIPE)?;
            expect_error("a sleeping long writer", long.join().map_err(|_| "panic")?, libc::EPIPE)
        })?;
    }
    Ok(())
}

/// A write without a reader ends a program that does not ignore `SIGPIPE`.
pub fn sigpipe(_: &[String]) -> ProbeResult {
    // SAFETY: the default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let (reader, mut writer) = pipe(0)?;
    drop(reader);
    let _ = writer.write(b"x")?;
    Ok(())
}
