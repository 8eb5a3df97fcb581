//! `pipe2`: the two ends of a queue of bytes, also of connected sockets.
//!
//! # Locks
//!
//! The bytes are behind a mutex, which is held while they are copied; it precedes the lock of the address
//! space. Their number changes only with it held.

mod buffer;
pub mod socket;

use super::generated::Text;
use super::readiness::{Watchable, Watched};
use super::{Caller, File};
use crate::memory::heap;
use crate::sched::{self, Mutex};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{IoVec, OpenFlags, PollEvents, S_IFIFO, Stat};
use abi::terminal::FIONREAD;
use addr::{PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use buffer::PipeBuffer;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

/// The maximum length of a write that is not interleaved with others.
const PIPE_BUF: usize = 4096;
const DEFAULT_CAPACITY: usize = 64 << 10;
/// The maximum of `F_SETPIPE_SZ`.
pub const CAPACITY_MAX: u32 = 1 << 20;

/// `st_dev` of pipes.
const PIPE_DEVICE: u64 = 4;

#[derive(Clone, Copy, Debug)]
struct State {
    len: usize,
    capacity: usize,
    /// The open ends: several after [`File::reopen`].
    readers: u32,
    writers: u32,
}

impl State {
    const fn is_open(&self) -> bool {
        self.readers > 0 && self.writers > 0
    }

    /// Returns the number of bytes of a write of `len` bytes that fit.
    ///
    /// # Errors
    /// `EPIPE` if an end is closed; `EAGAIN` if none fits, or not all of a write that must not be divided.
    fn room_for(&self, len: usize) -> Result<usize, Errno> {
        let room = self.capacity.saturating_sub(self.len);
        match len.min(room) {
            _ if !self.is_open() => Err(Errno::EPIPE),
            0 => Err(Errno::EAGAIN),
            fits if fits < len && len <= PIPE_BUF => Err(Errno::EAGAIN),
            fits => Ok(fits),
        }
    }

    fn is_writable(&self) -> bool {
        self.len + PIPE_BUF <= self.capacity
    }

    fn poll_reader(&self) -> PollEvents {
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN | PollEvents::RDNORM, self.len > 0);
        events.set(PollEvents::HUP, self.writers == 0);
        events
    }

    fn poll_writer(&self) -> PollEvents {
        let mut events = PollEvents::empty();
        events.set(PollEvents::OUT | PollEvents::WRNORM, self.is_writable());
        events.set(PollEvents::ERR, self.readers == 0);
        events
    }

    /// Changes the state. Returns the events for the watchers: the write end is not ready again while it
    /// stays writable, but a thread whose write did not fit looks again.
    fn remove(&mut self, count: usize) -> PollEvents {
        let was_writable = self.is_writable();
        self.len -= count;
        let is_new = self.is_writable() && !was_writable;
        if is_new { PollEvents::OUT | PollEvents::WRNORM } else { PollEvents::empty() }
    }

    /// Sets the capacity to at least `bytes`, and returns it.
    ///
    /// # Errors
    /// `EPERM` above the maximum, `EBUSY` if the pipe has more bytes.
    fn set_capacity(&mut self, bytes: u32) -> Result<usize, Errno> {
        if bytes > CAPACITY_MAX {
            return Err(Errno::EPERM);
        }
        let capacity = (bytes as usize).max(PAGE_SIZE as usize).next_power_of_two();
        if capacity < self.len {
            return Err(Errno::EBUSY);
        }
        self.capacity = capacity;
        Ok(capacity)
    }
}

pub struct Pipe {
    inode: u64,
    /// Seconds since the epoch.
    created: i64,
    buffer: Mutex<PipeBuffer>,
    state: Watched<State>,
}

impl Pipe {
    /// Returns the ends of a new pipe.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn ends() -> Result<(ReadEnd, WriteEnd), Errno> {
        static NEXT_INODE: AtomicU64 = AtomicU64::new(1);
        let state = State { len: 0, capacity: DEFAULT_CAPACITY, readers: 1, writers: 1 };
        let pipe = Self {
            inode: NEXT_INODE.fetch_add(1, Ordering::Relaxed),
            created: (sched::time::realtime_now() / 1_000_000_000) as i64,
            buffer: Mutex::new(PipeBuffer::new()),
            state: Watched::new(state),
        };
        let pipe = heap::try_arc(pipe).ok_or(Errno::ENOMEM)?;
        Ok((ReadEnd(pipe.clone()), WriteEnd(pipe)))
    }

    /// `F_GETPIPE_SZ`
    pub fn capacity(&self) -> usize {
        self.state.with(|state| state.capacity)
    }

    /// `F_SETPIPE_SZ`
    ///
    /// # Errors
    /// `EPERM`, `EBUSY`.
    pub fn set_capacity(&self, bytes: u32) -> Result<usize, Errno> {
        self.state.update(|state| {
            let was_writable = state.is_writable();
            let result = state.set_capacity(bytes);
            let events = PollEvents::OUT | PollEvents::WRNORM;
            (result, (state.is_writable() && !was_writable).then_some(events))
        })
    }

    fn read(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        let mut cursor = SegmentCursor::new(segments);
        if cursor.total() == 0 {
            return Ok(0);
        }
        let mut buffer = self.buffer.lock();
        if buffer.len() == 0 {
            let is_ended = self.state.with(|state| !state.is_open());
            return if is_ended { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let count = buffer.read(cursor.total(), |from| {
            cursor.step(from.len(), |to, len| memory.write_bytes(to, &from[..len]))
        })?;
        self.state.update(|state| ((), Some(state.remove(count))));
        Ok(count)
    }

    fn write(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        let mut cursor = SegmentCursor::new(segments);
        if cursor.total() == 0 {
            return Ok(0);
        }
        let mut buffer = self.buffer.lock();
        let fits = self.state.with(|state| state.room_for(cursor.total()))?;
        let count = buffer
            .write(fits, |to| cursor.step(to.len(), |from, len| memory.read_bytes(from, &mut to[..len])))?;
        self.state.update(|state| {
            state.len += count;
            ((), Some(PollEvents::IN | PollEvents::RDNORM))
        });
        Ok(count)
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        match request {
            FIONREAD => {
                let len = self.state.with(|state| state.len) as i32;
                UserMemory::new(caller.space).write(UserVa::new(argument), &len).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn stat(&self) -> Stat {
        Stat {
            dev: PIPE_DEVICE,
            ino: self.inode,
            mode: S_IFIFO | 0o600,
            nlink: 1,
            blksize: PAGE_SIZE as i32,
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            ..Stat::default()
        }
    }
}

/// Opens another end of the pipe.
///
/// # Errors
/// `ENXIO` for both ends in one file, `ENOMEM`.
fn reopen(pipe: &Arc<Pipe>, flags: OpenFlags) -> Result<Box<dyn File>, Errno> {
    let is_writer = flags.contains(OpenFlags::WRITE_ONLY);
    if flags.contains(OpenFlags::READ_WRITE) {
        return Err(Errno::ENXIO);
    }
    // Before an error drops the end.
    pipe.state.with(|state| if is_writer { state.writers += 1 } else { state.readers += 1 });
    let pipe = pipe.clone();
    let file: Option<Box<dyn File>> = match is_writer {
        true => heap::try_box(WriteEnd(pipe)).map(|file| file as _),
        false => heap::try_box(ReadEnd(pipe)).map(|file| file as _),
    };
    file.ok_or(Errno::ENOMEM)
}

fn describe(kind: &str, inode: u64, out: &mut Text) -> Result<(), Errno> {
    Ok(write!(out, "{kind}:[{inode}]")?)
}

/// The position in an I/O vector.
struct SegmentCursor<'a> {
    segments: &'a [IoVec],
    /// The number of bytes before it in the first segment.
    offset: u64,
}

impl<'a> SegmentCursor<'a> {
    fn new(segments: &'a [IoVec]) -> Self {
        Self { segments, offset: 0 }
    }

    /// Returns the number of bytes after the position, at most `RW_MAX`.
    fn total(&self) -> usize {
        (self.segments.iter().map(|segment| segment.len).sum::<u64>() - self.offset) as usize
    }

    /// Copies up to `limit` bytes at the position with `copy`, and moves the position past them. Returns
    /// their number; 0 at the end.
    ///
    /// # Errors
    /// Those of `copy`.
    fn step(
        &mut self,
        limit: usize,
        copy: impl FnOnce(UserVa, usize) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        while let Some(segment) = self.segments.first() {
            let len = (segment.len - self.offset).min(limit as u64);
            if len > 0 {
                let at = segment.base.checked_add(self.offset).ok_or(Errno::EFAULT)?;
                copy(UserVa::new(at), len as usize)?;
                self.offset += len;
                return Ok(len as usize);
            }
            self.segments = &self.segments[1..];
            self.offset = 0;
        }
        Ok(0)
    }
}

/// The segment of a read or write without an I/O vector.
fn segment(at: UserVa, len: usize) -> [IoVec; 1] {
    [IoVec { base: at.raw(), len: len as u64 }]
}

pub struct ReadEnd(Arc<Pipe>);
pub struct WriteEnd(Arc<Pipe>);

impl ReadEnd {
    pub fn pipe(&self) -> &Pipe {
        &self.0
    }

    /// Ends the pipe: writes fail, and reads return the bytes in it.
    fn close(&self) {
        self.0.state.update(|state| {
            state.readers = 0;
            ((), Some(CLOSED))
        });
    }
}

impl WriteEnd {
    pub fn pipe(&self) -> &Pipe {
        &self.0
    }

    /// As [`ReadEnd::close`].
    fn close(&self) {
        self.0.state.update(|state| {
            state.writers = 0;
            ((), Some(CLOSED))
        });
    }
}

impl File for ReadEnd {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        self.0.read(memory, &segment(to, len))
    }

    fn read_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        self.0.read(memory, segments)
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        self.0.ioctl(caller, request, argument)
    }

    fn stat(&self) -> Stat {
        self.0.stat()
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Box<dyn File>, Errno> {
        reopen(&self.0, flags)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        describe("pipe", self.0.inode, out)
    }

    fn poll(&self) -> PollEvents {
        self.0.state.with(|state| state.poll_reader())
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&self.0.state)
    }
}

impl File for WriteEnd {
    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        self.0.write(memory, &segment(from, len))
    }

    fn write_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        self.0.write(memory, segments)
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        self.0.ioctl(caller, request, argument)
    }

    fn stat(&self) -> Stat {
        self.0.stat()
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Box<dyn File>, Errno> {
        reopen(&self.0, flags)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        describe("pipe", self.0.inode, out)
    }

    fn poll(&self) -> PollEvents {
        self.0.state.with(|state| state.poll_writer())
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&self.0.state)
    }
}

/// The events of the close of an end.
const CLOSED: PollEvents = PollEvents::HUP.union(PollEvents::ERR);

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.0.state.update(|state| {
            // 0 after `close`.
            state.readers = state.readers.saturating_sub(1);
            ((), (state.readers == 0).then_some(CLOSED))
        });
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.0.state.update(|state| {
            state.writers = state.writers.saturating_sub(1);
            ((), (state.writers == 0).then_some(CLOSED))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(len: usize) -> State {
        State { len, capacity: DEFAULT_CAPACITY, readers: 1, writers: 1 }
    }

    #[test]
    fn pipe_ends_with_the_last_of_its_writers() {
        let (reader, writer) = Pipe::ends().unwrap();
        let second = writer.reopen(OpenFlags::WRITE_ONLY).unwrap();
        drop(writer);
        assert!(!reader.poll().contains(PollEvents::HUP));
        drop(second);
        assert!(reader.poll().contains(PollEvents::HUP));
        assert_eq!(reader.reopen(OpenFlags::READ_WRITE).err(), Some(Errno::ENXIO));
    }

    #[test]
    fn short_write_is_whole_and_long_write_is_divided() {
        let cases = [
            (0, 4096, Ok(4096)),
            (61_440, 4096, Ok(4096)),
            (61_441, 4096, Err(Errno::EAGAIN)),
            (61_441, 4095, Ok(4095)),
            (61_441, 4097, Ok(4095)),
            (0, 1 << 20, Ok(65_536)),
            (65_536, 1, Err(Errno::EAGAIN)),
            (65_536, 5000, Err(Errno::EAGAIN)),
        ];
        for (len, write, expected) in cases {
            assert_eq!(state(len).room_for(write), expected, "{write} bytes after {len}");
        }
        assert_eq!(State { readers: 0, ..state(65_536) }.room_for(1), Err(Errno::EPIPE));
    }

    #[test]
    fn a_writable_end_can_take_a_short_write() {
        for len in [0, 61_440, 61_441, 65_536] {
            let state = state(len);
            let is_writable = state.poll_writer().contains(PollEvents::OUT);
            assert_eq!(is_writable, state.room_for(PIPE_BUF).is_ok(), "{len}");
        }
    }

    #[test]
    fn closed_ends_are_reported() {
        let closed = State { readers: 0, writers: 0, ..state(3) };
        let readable = PollEvents::IN | PollEvents::RDNORM;
        let writable = PollEvents::OUT | PollEvents::WRNORM;
        assert_eq!((state(3).poll_reader(), state(3).poll_writer()), (readable, writable));
        assert_eq!(closed.poll_reader(), readable | PollEvents::HUP);
        assert_eq!(closed.poll_writer(), writable | PollEvents::ERR);
        assert_eq!(state(0).poll_reader(), PollEvents::empty());
    }

    #[test]
    fn write_end_is_ready_once_when_it_becomes_writable() {
        let mut state = state(65_536);
        assert_eq!(state.remove(4095), PollEvents::empty());
        assert_eq!(state.remove(1), PollEvents::OUT | PollEvents::WRNORM);
        assert_eq!(state.remove(1), PollEvents::empty());
    }

    #[test]
    fn capacity_is_a_power_of_two_within_limits() {
        let cases = [
            (0, 0, Ok(4096)),
            (4097, 0, Ok(8192)),
            (1 << 20, 0, Ok(1 << 20)),
            ((1 << 20) + 1, 0, Err(Errno::EPERM)),
            (4096, 4097, Err(Errno::EBUSY)),
            (4096, 4096, Ok(4096)),
        ];
        for (bytes, len, expected) in cases {
            assert_eq!(state(len).set_capacity(bytes), expected, "{bytes} with {len}");
        }
    }

    #[test]
    fn cursor_crosses_segments() {
        let segments = [(100, 3), (200, 0), (300, 5)].map(|(base, len)| IoVec { base, len });
        let (mut cursor, mut seen) = (SegmentCursor::new(&segments), Vec::new());
        assert_eq!(cursor.total(), 8);
        for limit in [2, 9, 4, 4, 4] {
            let left = 8 - seen.iter().map(|(_, len)| len).sum::<usize>();
            assert_eq!(cursor.total(), left);
            let step = cursor.step(limit, |at, len| {
                seen.push((at.raw(), len));
                Ok(())
            });
            seen.extend(step.ok().filter(|&len| len == 0).map(|_| (0, 0)));
        }
        assert_eq!(seen, [(100, 2), (102, 1), (300, 4), (304, 1), (0, 0)]);
    }
}
