//! dma-bufs: memory shared by devices and programs, referenced by a file descriptor.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::dma::{
    BufferChunk, BufferSync, ChunkQuery, DMA_BUF_CHUNKS, DMA_BUF_IOCTL_SYNC, DMA_BUF_LEAVES, Leaves,
    SyncFlags,
};

use crate::{Protection, View, request};

/// A dma-buf. Its memory is freed when the descriptor is closed, all mappings are removed and no device has
/// it attached.
#[derive(Debug)]
pub struct Buffer {
    fd: OwnedFd,
    len: u64,
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Buffer {
    pub(crate) fn new(fd: OwnedFd, len: u64) -> Self {
        Self { fd, len }
    }

    /// Wraps an inherited descriptor and queries its size.
    ///
    /// # Errors
    /// `ESPIPE` if it is not a dma-buf.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(fd);
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { fd: file.into(), len })
    }

    /// The length in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Maps the whole buffer.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn map(&self, protection: Protection) -> io::Result<View> {
        View::of_file(self, self.len as usize, protection)
    }

    /// Starts (or with `END` ends) CPU access.
    ///
    /// # Errors
    /// `EINVAL` for invalid flags, `EIO` if an attached device is quarantined.
    pub fn sync(&self, flags: SyncFlags) -> io::Result<()> {
        request(self, DMA_BUF_IOCTL_SYNC, &mut BufferSync { flags: flags.bits() })
    }

    /// The chunks of the buffer, in buffer order.
    ///
    /// # Errors
    /// `ENOTTY` on a kernel other than Tessera.
    pub fn chunks(&self) -> io::Result<Vec<BufferChunk>> {
        let mut all: Vec<BufferChunk> = Vec::new();
        let mut page = [BufferChunk::default(); 256];
        loop {
            let chunks = page.as_mut_ptr().expose_provenance() as u64;
            let (first, capacity) = (all.len() as u64, page.len() as u64);
            let mut query = ChunkQuery { first, capacity, chunks, written: 0, total: 0 };
            request(self, DMA_BUF_CHUNKS, &mut query)?;
            let written = query.written.min(capacity) as usize;
            all.extend_from_slice(&page[..written]);
            if written == 0 || all.len() as u64 >= query.total {
                return Ok(all);
            }
        }
    }

    /// The leaf descriptors that map the buffer in this process.
    ///
    /// # Errors
    /// `ENOTTY` on a kernel other than Tessera.
    pub fn leaves(&self) -> io::Result<Leaves> {
        let mut leaves = Leaves::default();
        request(self, DMA_BUF_LEAVES, &mut leaves)?;
        Ok(leaves)
    }
}
