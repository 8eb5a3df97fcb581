//! `/dev/dma_heap/*`: allocation of buffers, and their export as dma-bufs.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::dma_buf::{DmaBufFile, errno, statistics};
use super::{Caller, File, OpenFile, stat_device};
use crate::dma;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::dma::{DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS, HeapAllocation};
use abi::file::{OpenFlags, Stat};
use addr::UserVa;
use alloc::sync::Arc;
use dma_api::Attrs;

/// The major number of the DMA heaps.
const MAJOR: u32 = 240;

/// The DMA heaps; the value is the minor number.
#[derive(Clone, Copy)]
enum DmaHeap {
    /// Scattered, cached.
    System,
    /// Scattered, non-cacheable (write-combining).
    Uncached,
    /// Physically contiguous, cached.
    Contiguous,
}

impl DmaHeap {
    const ALL: [Self; 3] = [Self::System, Self::Uncached, Self::Contiguous];

    fn path(self) -> &'static str {
        match self {
            Self::System => "/dev/dma_heap/system",
            Self::Uncached => "/dev/dma_heap/system-uncached",
            Self::Contiguous => "/dev/dma_heap/contiguous",
        }
    }

    /// Returns the attributes of a buffer: the kernel never accesses a program's buffer.
    fn attrs(self) -> Attrs {
        let kind = match self {
            Self::System => Attrs::empty(),
            Self::Uncached => Attrs::WRITE_COMBINE,
            Self::Contiguous => Attrs::FORCE_CONTIGUOUS,
        };
        kind | Attrs::NO_KERNEL_MAPPING | Attrs::NO_WARN
    }
}

pub(super) fn register() -> Result<(), RegisterError> {
    DmaHeap::ALL.into_iter().try_for_each(|heap| {
        let number = DeviceNumber { major: MAJOR, minor: heap as u32 };
        char_device::register(&[heap.path()], number, move |number, flags| {
            Ok(OpenFile::new(HeapFile { heap, number }, flags))
        })
    })
}

struct HeapFile {
    heap: DmaHeap,
    number: DeviceNumber,
}

impl HeapFile {
    fn allocate(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut request: HeapAllocation = memory.read(at)?;
        let flags = OpenFlags::from_bits_retain(request.fd_flags);
        let known = OpenFlags::CLOEXEC | OpenFlags::READ_WRITE | OpenFlags::WRITE_ONLY;
        if request.fd != 0 || request.heap_flags != 0 || !known.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let buffer = dma::alloc_unattached(request.len, self.heap.attrs()).map_err(errno)?;
        let file = Arc::new(OpenFile::new(DmaBufFile::new(buffer), flags));
        request.fd = super::insert(caller.files, file, flags.contains(OpenFlags::CLOEXEC), 0)?;
        memory.write(at, &request).inspect_err(|_| {
            // The program does not know the file descriptor, and cannot close it.
            let file = caller.files.lock().remove(request.fd as i32);
            drop(file);
        })
    }
}

impl File for HeapFile {
    fn stat(&self) -> Stat {
        stat_device(self.number.rdev())
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let at = UserVa::new(argument);
        if request == DMA_HEAP_IOCTL_ALLOC.raw() {
            self.allocate(caller, at)?;
        } else if request == DMA_STATISTICS.raw() {
            UserMemory::new(caller.space).write(at, &statistics())?;
        } else {
            return Err(Errno::ENOTTY);
        }
        Ok(0)
    }
}
