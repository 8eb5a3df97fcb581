//! A dma-buf: memory that devices and programs share, held by its descriptor.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::dma::{
    BufferChunk, BufferSync, ChunkQuery, DMA_BUF_CHUNKS, DMA_BUF_IOCTL_SYNC, DMA_BUF_LEAVES, Leaves,
    SyncFlags,
};

use crate::{Protection, View, request};

/// A buffer. Its memory lives until the descriptor is closed, its views are gone and no device holds it.
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

    /// A buffer that somebody handed over; asks for its size.
    ///
    /// # Errors
    /// `ESPIPE` if it is no buffer.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(fd);
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { fd: file.into(), len })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Maps all of it into this program.
    ///
    /// # Errors
    /// Whatever `mmap` answers.
    pub fn map(&self, protection: Protection) -> io::Result<View> {
        View::of_file(self, self.len as usize, protection)
    }

    /// Says that this program starts (or with `END` stops) to read or write what a device writes or reads.
    ///
    /// # Errors
    /// `EINVAL` for flags that mean nothing, `EIO` if a device that has it was blocked for its faults.
    pub fn sync(&self, flags: SyncFlags) -> io::Result<()> {
        request(self, DMA_BUF_IOCTL_SYNC, &mut BufferSync { flags: flags.bits() })
    }

    /// The chunks it is made of, in its own order.
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

    /// How this program's page tables map it.
    ///
    /// # Errors
    /// `ENOTTY` on a kernel other than Tessera.
    pub fn leaves(&self) -> io::Result<Leaves> {
        let mut leaves = Leaves::default();
        request(self, DMA_BUF_LEAVES, &mut leaves)?;
        Ok(leaves)
    }
}
