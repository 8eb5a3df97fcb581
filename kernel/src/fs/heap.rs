//! `/dev/dma_heap/*`: allocation of buffers, and their export as dma-bufs.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::dma_buf::{DmaBufFile, errno, statistics};
use super::{Caller, File, OpenFile};
use crate::dma;
use crate::vm::access::UserMemory;
use abi::dma::{DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS, HeapAllocation};
use abi::file::OpenFlags;
use abi::{Errno, Ioctl};
use addr::{PAGE_SIZE, UserVa};
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

    /// The name, by which the buffers report their exporter.
    fn name(self) -> &'static str {
        &self.path()["/dev/dma_heap/".len()..]
    }

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
        char_device::register(&[heap.path()], number, move || super::boxed(HeapFile(heap)))
    })
}

struct HeapFile(DmaHeap);

impl HeapFile {
    /// The structure of the program may be shorter or longer than [`HeapAllocation`].
    fn allocate(&self, caller: &Caller<'_>, ioctl: Ioctl, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut request: HeapAllocation = memory.read_prefix(at, ioctl.input_len())?;
        let flags = OpenFlags::from_bits_retain(request.fd_flags);
        let known = OpenFlags::CLOEXEC | OpenFlags::READ_WRITE | OpenFlags::WRITE_ONLY;
        if request.fd != 0 || request.heap_flags != 0 || !known.contains(flags) {
            return Err(Errno::EINVAL);
        }
        // A length that exceeds the last page rounds up to 0 in Linux.
        let len = request.len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let buffer = dma::alloc_unattached(len, self.0.attrs()).map_err(errno)?;
        let file = OpenFile::try_new(DmaBufFile::new(buffer, self.0.name())?, flags)?;
        super::insert_and_report(caller.files, file, flags.contains(OpenFlags::CLOEXEC), |fd| {
            request.fd = fd;
            memory.write_prefix(at, &request, ioctl.output_len())
        })
    }
}

impl File for HeapFile {
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (ioctl, at) = (Ioctl::from_raw(request), UserVa::new(argument));
        if ioctl == DMA_STATISTICS {
            UserMemory::new(caller.space).write(at, &statistics())?;
        } else if ioctl.number() == DMA_HEAP_IOCTL_ALLOC.number() {
            // By the number alone, as in Linux (`dma_heap_ioctl`): the structure may grow.
            self.allocate(caller, ioctl, at)?;
        } else {
            return Err(Errno::EINVAL);
        }
        Ok(0)
    }
}
