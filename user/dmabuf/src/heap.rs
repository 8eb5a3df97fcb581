//! dma-heaps.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use abi::dma::{DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS, HeapAllocation, Statistics};

use crate::{Buffer, request};

/// The heap of scattered, cacheable memory.
pub const SYSTEM: &str = "/dev/dma_heap/system";
/// The heap of scattered, non-cacheable memory.
pub const UNCACHED: &str = "/dev/dma_heap/system-uncached";
/// The heap of physically contiguous memory.
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
    /// The error of `open`, with the path.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.map(|file| Self { file })
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// Allocates a zero-filled buffer of `len` bytes.
    ///
    /// # Errors
    /// `EINVAL` for a length of 0, `ENOMEM` without memory.
    pub fn allocate(&self, len: u64) -> io::Result<Buffer> {
        let fd_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
        let mut allocation = HeapAllocation { len, fd: 0, fd_flags, heap_flags: 0 };
        request(&self.file, DMA_HEAP_IOCTL_ALLOC, &mut allocation)?;
        let fd = i32::try_from(allocation.fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the ioctl has just created this descriptor, so it has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Buffer::new(fd, len))
    }

    /// Resource usage of all buffers.
    ///
    /// # Errors
    /// `EINVAL` on a kernel other than Tessera.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let mut statistics = Statistics::default();
        request(&self.file, DMA_STATISTICS, &mut statistics)?;
        Ok(statistics)
    }
}
