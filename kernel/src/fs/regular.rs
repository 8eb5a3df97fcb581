//! Regular files: of the archive, and of a tmpfs.
//!
//! # Locks
//!
//! The position precedes the writer's lock of the content, and both precede the locks of the address space
//! and of the tree.

use super::root::{self, FileBody};
use super::{File, seek_to};
use crate::debug::{self, FailPoint};
use crate::sched::{self, Mutex};
use crate::vm::access::UserMemory;
use crate::vm::address_space::FileContent;
use crate::vm::shared_memory::{SharedMemory, Writer};
use abi::Errno;
use abi::file::{AllocateMode, OpenFlags, SEEK_DATA, SEEK_HOLE};
use addr::{Address, PAGE_SIZE, UserVa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use program::NodeId;

pub struct Regular {
    /// The node, to which the open file has a reference.
    node: NodeId,
    body: FileBody,
    position: Mutex<u64>,
    /// `O_APPEND`
    is_append: AtomicBool,
}

impl Regular {
    pub fn new(node: NodeId, body: FileBody, flags: OpenFlags) -> Self {
        let is_append = AtomicBool::new(flags.contains(OpenFlags::APPEND));
        Self { node, body, position: Mutex::new(0), is_append }
    }

    fn copy_out(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        match &self.body {
            FileBody::Archive(data) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).unwrap_or(&[]);
                let bytes = &rest[..rest.len().min(len)];
                memory.write_bytes(to, bytes)?;
                Ok(bytes.len())
            }
            FileBody::Memory(body) => for_each_piece(to, len, |at, piece, done| {
                let count = body.read(offset.saturating_add(done as u64), piece);
                memory.write_bytes(at, &piece[..count])?;
                Ok(count)
            }),
        }
    }

    /// Writes at `offset`, or at the end with `O_APPEND`. Returns the number of bytes, and the offset after
    /// them.
    fn copy_in(
        &self,
        memory: UserMemory<'_>,
        from: UserVa,
        len: usize,
        offset: u64,
    ) -> Result<(usize, u64), Errno> {
        let body = self.memory()?;
        let count = {
            let writer = body.writer();
            let offset = if self.is_append.load(Ordering::Relaxed) { writer.size() } else { offset };
            let count = for_each_piece(from, len, |at, piece, done| {
                memory.read_bytes(at, piece)?;
                writer.write(offset.saturating_add(done as u64), piece)
            })?;
            (count, offset + count as u64)
        };
        if count.0 > 0 {
            self.set_modified()?;
        }
        Ok(count)
    }

    /// Runs a change of the content that is not a write.
    fn change(&self, change: impl FnOnce(&Writer<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
        let body = self.memory()?;
        change(&body.writer())?;
        self.set_modified()
    }

    fn memory(&self) -> Result<&Arc<SharedMemory>, Errno> {
        match &self.body {
            FileBody::Archive(_) => Err(Errno::EROFS),
            FileBody::Memory(body) => Ok(body),
        }
    }

    fn set_modified(&self) -> Result<(), Errno> {
        root::lock()?.set_modified(self.node, root::now());
        Ok(())
    }
}

/// Runs `step` for pieces of `len` bytes at `at` in a program, which do not cross the border of a page: with
/// the address, a buffer of the length, and the number of bytes before it. Ends after a short step. An error
/// is returned if there is no byte before it.
pub(super) fn for_each_piece(
    at: UserVa,
    len: usize,
    mut step: impl FnMut(UserVa, &mut [u8], usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut buffer = Vec::new();
    let size = len.min(PAGE_SIZE as usize);
    if debug::fail_point(FailPoint::Heap) || buffer.try_reserve_exact(size).is_err() {
        return Err(Errno::ENOMEM);
    }
    buffer.resize(size, 0);
    let mut done = 0;
    while done < len {
        let here = at.checked_add(done as u64).ok_or(Errno::EFAULT);
        let result = here.and_then(|here| {
            let room = (PAGE_SIZE - here.raw() % PAGE_SIZE) as usize;
            let piece = &mut buffer[..room.min(size).min(len - done)];
            step(here, piece, done).map(|count| (count, count < piece.len()))
        });
        match result {
            Ok((count, is_short)) => {
                done += count;
                if is_short {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        sched::yield_if_slice_ended();
    }
    Ok(done)
}

impl File for Regular {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let mut position = self.position.lock();
        let count = self.copy_out(memory, to, len, *position)?;
        *position += count as u64;
        Ok(count)
    }

    fn read_at(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        self.copy_out(memory, to, len, offset)
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut position = self.position.lock();
        let (count, end) = self.copy_in(memory, from, len, *position)?;
        if count > 0 {
            *position = end;
        }
        Ok(count)
    }

    fn write_at(
        &self,
        memory: UserMemory<'_>,
        from: UserVa,
        len: usize,
        offset: u64,
    ) -> Result<usize, Errno> {
        Ok(self.copy_in(memory, from, len, offset)?.0)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.change(|writer| writer.truncate(size))
    }

    fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        self.change(|writer| {
            if mode.contains(AllocateMode::PUNCH_HOLE) {
                writer.punch(offset..end)
            } else {
                writer.allocate(offset..end, !mode.contains(AllocateMode::KEEP_SIZE))
            }
        })
    }

    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        let mut position = self.position.lock();
        let at = u64::try_from(offset).map_err(|_| Errno::ENXIO);
        *position = match (whence, &self.body) {
            (SEEK_DATA, FileBody::Memory(body)) => body.next_data(at?)?,
            (SEEK_HOLE, FileBody::Memory(body)) => body.next_hole(at?)?,
            (SEEK_DATA | SEEK_HOLE, FileBody::Archive(data)) => {
                let end = data.len() as u64;
                let at = at?;
                match whence {
                    _ if at >= end => return Err(Errno::ENXIO),
                    SEEK_DATA => at,
                    _ => end,
                }
            }
            _ => seek_to(offset, whence, *position, self.body.size())?,
        };
        Ok(*position)
    }

    fn set_flags(&self, flags: OpenFlags) {
        self.is_append.store(flags.contains(OpenFlags::APPEND), Ordering::Relaxed);
    }

    fn content(&self) -> Option<FileContent> {
        match self.body {
            FileBody::Archive(data) => Some(data),
            FileBody::Memory(_) => None,
        }
    }

    fn shared_memory(&self) -> Option<&Arc<SharedMemory>> {
        self.memory().ok()
    }
}
