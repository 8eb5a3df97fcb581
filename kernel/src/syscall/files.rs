//! System calls on files.

use super::{SyscallContext, SyscallResult, signals};
use crate::fs::pipe::{Pipe, ReadEnd, WriteEnd};
use crate::fs::readiness::block_on;
use crate::fs::{self, File, OpenFile};
use crate::memory::heap;
use abi::Errno;
use abi::file::*;
use abi::signal::Signal;
use abi::socket::MessageFlags;
use addr::UserVa;
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

pub fn dup(call: &SyscallContext<'_>) -> SyscallResult {
    insert(call, call.any_file(0)?, false, 0)
}

pub fn dup3(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.int(2) as u32);
    if call.int(0) == call.int(1) || !OpenFlags::CLOEXEC.contains(flags) {
        return Err(Errno::EINVAL);
    }
    let file = call.any_file(0)?;
    let number = u32::try_from(call.int(1)).map_err(|_| Errno::EBADF)?;
    let replaced = call.process().files.lock().replace(number, file, !flags.is_empty());
    // Outside of the lock, as for `close`: the previous file, or `file` after an error.
    match replaced {
        Ok(_previous) => Ok(number.into()),
        Err((error, _file)) => Err(error),
    }
}

pub fn fcntl(call: &SyscallContext<'_>) -> SyscallResult {
    let file = match call.value(1) {
        F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL => call.any_file(0)?,
        _ => call.file(0)?,
    };
    match call.value(1) {
        F_DUPFD => insert(call, file, false, call.length(2)),
        F_DUPFD_CLOEXEC => insert(call, file, true, call.length(2)),
        F_GETFD => {
            let close_on_exec = call.process().files.lock().get(call.int(0))?.close_on_exec;
            Ok(if close_on_exec { FD_CLOEXEC } else { 0 })
        }
        F_SETFD => {
            let close_on_exec = call.value(2) & FD_CLOEXEC != 0;
            call.process().files.lock().set_close_on_exec(call.int(0), close_on_exec).map(|()| 0)
        }
        F_GETFL => Ok(file.flags().bits().into()),
        F_SETFL => {
            file.set_flags(OpenFlags::from_bits_retain(call.value(2) as u32));
            Ok(0)
        }
        F_ADD_SEALS => {
            let seals = Seals::from_bits(call.value(2) as u32).ok_or(Errno::EINVAL)?;
            let memory = file.file().shared_memory().ok_or(Errno::EINVAL)?;
            file.writable().map_err(|_| Errno::EPERM)?;
            memory.writer().seal(seals).map(|()| 0)
        }
        F_GET_SEALS => {
            let memory = file.file().shared_memory().ok_or(Errno::EINVAL)?;
            Ok(memory.seals().bits().into())
        }
        F_GETPIPE_SZ => Ok(pipe(&file)?.capacity() as u64),
        F_SETPIPE_SZ => pipe(&file)?.set_capacity(call.value(2) as u32).map(|capacity| capacity as u64),
        _ => Err(Errno::EINVAL),
    }
}

/// # Errors
/// `EBADF` if the file is not an end of a pipe.
fn pipe(file: &OpenFile) -> Result<&Pipe, Errno> {
    let reader = file.downcast::<ReadEnd>().map(ReadEnd::pipe);
    reader.or_else(|| file.downcast::<WriteEnd>().map(WriteEnd::pipe)).ok_or(Errno::EBADF)
}

pub fn pipe2(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.int(1) as u32);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = Pipe::ends()?;
    open_two(call, call.address(0), ((reader, flags), (writer, flags | OpenFlags::WRITE_ONLY)))
}

/// Adds two files with these flags, and writes their numbers to `to` in the process.
///
/// # Errors
/// `ENOMEM`, `EMFILE`, `EFAULT`.
pub(super) fn open_two(
    call: &SyscallContext<'_>,
    to: UserVa,
    (first, second): ((impl File, OpenFlags), (impl File, OpenFlags)),
) -> SyscallResult {
    let files = &call.process().files;
    let first = OpenFile::open(files, first.0, first.1)?;
    let numbers = OpenFile::open(files, second.0, second.1).and_then(|second| {
        let written = call.memory().write(to, &[first, second]);
        written.inspect_err(|_| {
            let removed = files.lock().remove(second as i32);
            drop(removed);
        })
    });
    numbers.map(|()| 0).inspect_err(|_| {
        let removed = files.lock().remove(first as i32);
        drop(removed);
    })
}

fn insert(
    call: &SyscallContext<'_>,
    file: Arc<OpenFile>,
    close_on_exec: bool,
    lowest: usize,
) -> SyscallResult {
    fs::insert(&call.process().files, file, close_on_exec, lowest).map(u64::from)
}

pub fn ioctl(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    match call.value(1) as u32 {
        request @ (FIOCLEX | FIONCLEX) => {
            call.process().files.lock().set_close_on_exec(call.int(0), request == FIOCLEX)?;
            return Ok(0);
        }
        FIONBIO => {
            let is_set = call.memory().read::<i32>(call.address(2))? != 0;
            let mut flags = file.flags();
            flags.set(OpenFlags::NONBLOCK, is_set);
            file.set_flags(flags);
            return Ok(0);
        }
        _ => {}
    }
    file.file().ioctl(&call.task.caller(), call.value(1) as u32, call.value(2))
}

pub fn close(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.process().files.lock().remove(call.int(0))?;
    // Outside of the lock: the last reference can wait, for example for the detach of a buffer.
    drop(file);
    Ok(0)
}

/// `getdents64`
pub fn get_entries(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    Ok(file.readable()?.entries(call.memory(), call.address(1), call.length(2))? as u64)
}

/// `lseek`
pub fn seek(call: &SyscallContext<'_>) -> SyscallResult {
    call.file(0)?.file().seek(call.value(1) as i64, call.value(2))
}

pub fn read(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let readable = file.readable()?;
    let (at, len) = (call.address(1), clamp_length(call.value(2)));
    Ok(block_on(&file, || readable.read(call.memory(), at, len))? as u64)
}

/// `pread64`
pub fn read_at(call: &SyscallContext<'_>) -> SyscallResult {
    let offset = u64::try_from(call.value(3) as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.file(0)?;
    Ok(file.readable()?.read_at(call.memory(), call.address(1), clamp_length(call.value(2)), offset)? as u64)
}

/// `pwrite64`
pub fn write_at(call: &SyscallContext<'_>) -> SyscallResult {
    let offset = u64::try_from(call.value(3) as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.file(0)?;
    let len = clamp_length(call.value(2));
    Ok(file.writable()?.write_at(call.memory(), call.address(1), len, offset)? as u64)
}

/// `preadv`
pub fn read_vector_at(call: &SyscallContext<'_>) -> SyscallResult {
    let mut offset = u64::try_from(call.value(3) as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.file(0)?;
    let readable = file.readable()?;
    let count = fs::for_each_segment(&segments(call)?, |at, len| {
        let count = readable.read_at(call.memory(), at, len, offset)?;
        offset = offset.saturating_add(count as u64);
        Ok(count)
    })?;
    Ok(count as u64)
}

/// `pwritev`
pub fn write_vector_at(call: &SyscallContext<'_>) -> SyscallResult {
    let mut offset = u64::try_from(call.value(3) as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.file(0)?;
    let writable = file.writable()?;
    let count = fs::for_each_segment(&segments(call)?, |at, len| {
        let count = writable.write_at(call.memory(), at, len, offset)?;
        offset = offset.saturating_add(count as u64);
        Ok(count)
    })?;
    Ok(count as u64)
}

pub fn write(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let writable = file.writable()?;
    let (at, len) = (call.address(1), clamp_length(call.value(2)));
    let flags = MessageFlags::empty();
    write_all(call, &file, flags, len, |done| writable.write(call.memory(), at + done as u64, len - done))
}

/// Runs `step`, which writes the bytes after the given number, until all `len` bytes are written, or once if
/// the file or the call does not block. An error is returned if no byte was written before; `EPIPE` also
/// raises `SIGPIPE`, unless `flags` exclude it.
pub(super) fn write_all(
    call: &SyscallContext<'_>,
    file: &OpenFile,
    flags: MessageFlags,
    len: usize,
    mut step: impl FnMut(usize) -> Result<usize, Errno>,
) -> SyscallResult {
    let may_block = !flags.contains(MessageFlags::DONTWAIT);
    let mut done = 0;
    loop {
        match if may_block { block_on(file, || step(done)) } else { step(done) } {
            Ok(count) => {
                done += count;
                let is_blocking = || {
                    may_block
                        && !file.flags().contains(OpenFlags::NONBLOCK)
                        && file.file().watched().is_some()
                };
                if done == len || count == 0 || !is_blocking() {
                    return Ok(done as u64);
                }
            }
            Err(error) => {
                if error == Errno::EPIPE && !flags.contains(MessageFlags::NOSIGNAL) {
                    signals::raise(call, Signal::SIGPIPE);
                }
                return if done == 0 { Err(error) } else { Ok(done as u64) };
            }
        }
    }
}

/// `readv`
pub fn read_vector(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let readable = file.readable()?;
    let segments = segments(call)?;
    Ok(block_on(&file, || readable.read_vector(call.memory(), &segments))? as u64)
}

/// `writev`
pub fn write_vector(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let writable = file.writable()?;
    let mut segments = segments(call)?;
    let (len, mut skipped) = (segments.iter().map(|segment| segment.len).sum::<u64>() as usize, 0);
    write_all(call, &file, MessageFlags::empty(), len, |done| {
        skip(&mut segments, done - core::mem::replace(&mut skipped, done));
        writable.write_vector(call.memory(), &segments)
    })
}

/// Shortens the I/O vector by `count` bytes at its start.
fn skip(segments: &mut [IoVec], mut count: usize) {
    for segment in segments {
        let here = segment.len.min(count as u64);
        segment.base += here;
        segment.len -= here;
        count -= here as usize;
    }
}

/// Reads the I/O vector in arguments 1 and 2. Its total length is cut to the maximum.
///
/// # Errors
/// `EINVAL` for too many segments or a negative length, `EFAULT`, `ENOMEM`.
fn segments(call: &SyscallContext<'_>) -> Result<Vec<IoVec>, Errno> {
    let count = usize::try_from(call.int(2)).ok().filter(|&count| count <= IOV_MAX).ok_or(Errno::EINVAL)?;
    let mut segments = Vec::new();
    segments.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    segments.resize(count, IoVec::new_zeroed());
    call.memory().read_bytes(call.address(1), segments.as_mut_bytes())?;
    if segments.iter().any(|segment| segment.len > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    let mut room = RW_MAX;
    for segment in &mut segments {
        segment.len = segment.len.min(room);
        room -= segment.len;
    }
    Ok(segments)
}

pub(super) fn clamp_length(len: u64) -> usize {
    len.min(RW_MAX) as usize
}

/// `fgetxattr`: no file has extended attributes.
pub fn get_attribute(call: &SyscallContext<'_>) -> SyscallResult {
    list_attributes(call)?;
    Err(Errno::EOPNOTSUPP)
}

/// `flistxattr`
pub fn list_attributes(call: &SyscallContext<'_>) -> SyscallResult {
    call.file(0).map(|_| 0)
}

/// `fstat`
pub fn stat(call: &SyscallContext<'_>) -> SyscallResult {
    let stat = call.any_file(0)?.stat()?;
    call.memory().write(call.address(1), &stat).map(|()| 0)
}

/// `fstatfs`
pub fn stat_fs(call: &SyscallContext<'_>) -> SyscallResult {
    let stat = call.any_file(0)?.stat_fs()?;
    call.memory().write(call.address(1), &stat).map(|()| 0)
}

/// `ftruncate`
pub fn truncate(call: &SyscallContext<'_>) -> SyscallResult {
    let size = u64::try_from(call.value(1) as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.file(0)?;
    file.writable().map_err(|_| Errno::EINVAL)?.truncate(size).map(|()| 0)
}

/// `fallocate`
pub fn allocate(call: &SyscallContext<'_>) -> SyscallResult {
    let mode = AllocateMode::from_bits(call.value(1) as u32).ok_or(Errno::EOPNOTSUPP)?;
    let range = (u64::try_from(call.value(2) as i64), u64::try_from(call.value(3) as i64));
    let (Ok(offset), Ok(len @ 1..)) = range else { return Err(Errno::EINVAL) };
    if mode == AllocateMode::PUNCH_HOLE {
        return Err(Errno::EOPNOTSUPP);
    }
    let file = call.file(0)?;
    file.writable()?.allocate(mode, offset, len).map(|()| 0)
}

/// `fsync` and `fdatasync`: files with a node are in memory.
pub fn sync(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let kind = file.stat()?.mode & S_IFMT;
    if file.node().is_some() && matches!(kind, S_IFREG | S_IFDIR) { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `fadvise64`: the advice has no effect on files in memory.
pub fn advise(call: &SyscallContext<'_>) -> SyscallResult {
    const ADVICE_MAX: i32 = 5;
    let file = call.file(0)?;
    match call.int(3) {
        _ if file.stat()?.mode & S_IFMT == S_IFIFO => Err(Errno::ESPIPE),
        0..=ADVICE_MAX if call.value(2) as i64 >= 0 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `memfd_create`
pub fn memory_file(call: &SyscallContext<'_>) -> SyscallResult {
    /// The maximum length of the name, with `memfd:` before it a name of a file.
    const NAME_BYTES: usize = NAME_MAX - 6;
    let flags = MemfdFlags::from_bits(call.value(1) as u32).ok_or(Errno::EINVAL)?;
    let name = call.memory().read_string(call.address(0), NAME_BYTES + 1);
    let name = name.map_err(|error| if error == Errno::ENAMETOOLONG { Errno::EINVAL } else { error })?;
    let file = heap::try_arc(fs::memory_file(flags, &name)?).ok_or(Errno::ENOMEM)?;
    insert(call, file, flags.contains(MemfdFlags::CLOEXEC), 0)
}
