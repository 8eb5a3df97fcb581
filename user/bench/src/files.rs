//! Cost of a write (`alloc_ticks`) and of the read of its bytes (`free_ticks`), in one thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::measure::measure;

const ROUNDS: usize = 256;

/// Owns the descriptor that a call returned.
fn owned(descriptor: i32) -> io::Result<File> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and owned by nothing else.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Writes and reads the counter of an eventfd.
pub fn eventfd() -> io::Result<()> {
    // SAFETY: no pointers.
    let file = owned(unsafe { libc::eventfd(0, 0) })?;
    write_and_read("eventfd", &file, &file, &1u64.to_ne_bytes())
}

/// Writes a byte to a pipe, and reads it.
pub fn pipe() -> io::Result<()> {
    let mut ends = [-1; 2];
    // SAFETY: writes two numbers.
    unsafe { libc::pipe2(ends.as_mut_ptr(), 0) };
    let [reader, writer] = ends.map(owned);
    write_and_read("pipe", &writer?, &reader?, &[1])
}

fn write_and_read(name: &str, writer: &File, reader: &File, bytes: &[u8]) -> io::Result<()> {
    let (writer, reader) = (writer.as_raw_fd(), reader.as_raw_fd());
    let (mut room, mut is_complete) = ([0u8; 8], true);
    let measured = measure(
        ROUNDS,
        // SAFETY: reads the bytes.
        || Ok(unsafe { libc::write(writer, bytes.as_ptr().cast(), bytes.len()) }),
        |written| {
            // SAFETY: writes at most `room`.
            let read = unsafe { libc::read(reader, room.as_mut_ptr().cast(), bytes.len().min(room.len())) };
            is_complete &= [written, read] == [bytes.len() as isize; 2];
        },
    )?;
    if !is_complete {
        return Err(io::Error::other(format!("{name}: a short write or read")));
    }
    println!("BENCH {name} size={} attrs=write_read {measured} chunks=0", bytes.len());
    Ok(())
}
