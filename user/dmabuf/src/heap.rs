//! The places buffers come from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use abi::dma::{DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS, HeapAllocation, Statistics};

use crate::{Buffer, request};

/// Scattered, cached memory.
pub const SYSTEM: &str = "/dev/dma_heap/system";
/// Scattered memory that no mapping caches.
pub const UNCACHED: &str = "/dev/dma_heap/system-uncached";
/// One piece of memory.
pub const CONTIGUOUS: &str = "/dev/dma_heap/contiguous";

/// An open heap.
#[derive(Debug)]
pub struct Heap {
    file: File,
}

impl Heap {
    /// Opens the heap at `path`.
    ///
    /// # Errors
    /// Names the path: a machine without it is the most likely reason.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.map(|file| Self { file })
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// A zero-filled buffer of `len` bytes.
    ///
    /// # Errors
    /// `EINVAL` for 0, `ENOMEM` for more than there is.
    pub fn allocate(&self, len: u64) -> io::Result<Buffer> {
        let fd_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
        let mut wanted = HeapAllocation { len, fd: 0, fd_flags, heap_flags: 0 };
        request(&self.file, DMA_HEAP_IOCTL_ALLOC, &mut wanted)?;
        let fd = i32::try_from(wanted.fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Buffer::new(fd, len))
    }

    /// What all buffers together cost the kernel.
    ///
    /// # Errors
    /// `ENOTTY` on a kernel other than Tessera.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let mut statistics = Statistics::default();
        request(&self.file, DMA_STATISTICS, &mut statistics)?;
        Ok(statistics)
    }
}
