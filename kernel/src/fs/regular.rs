//! Regular files of the initramfs.

use super::{File, seek_to};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use crate::vm::address_space::FileContent;
use abi::Errno;
use addr::UserVa;

pub struct Regular {
    data: FileContent,
    position: SpinLock<u64>,
}

impl Regular {
    pub fn new(data: FileContent) -> Self {
        Self { data, position: SpinLock::new(0) }
    }

    fn copy(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.data.get(offset..)).unwrap_or(&[]);
        let bytes = &rest[..rest.len().min(len)];
        memory.write_bytes(to, bytes)?;
        Ok(bytes.len())
    }
}

impl File for Regular {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let offset = *self.position.lock();
        let count = self.copy(memory, to, len, offset)?;
        *self.position.lock() = offset + count as u64;
        Ok(count)
    }

    fn read_at(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        self.copy(memory, to, len, offset)
    }

    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        let mut position = self.position.lock();
        *position = seek_to(offset, whence, *position, self.data.len() as u64)?;
        Ok(*position)
    }

    fn content(&self) -> Option<FileContent> {
        Some(self.data)
    }
}
