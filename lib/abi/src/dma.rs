//! dma-buf and its heaps (Linux `dma-heap.h`, `dma-buf.h`), and what Tessera can tell about a buffer.

use crate::{Ioctl, IoctlDirection};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Argument of [`DMA_HEAP_IOCTL_ALLOC`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeapAllocation {
    /// In: bytes wanted.
    pub len: u64,
    /// Out: the new dma-buf; must be 0 going in.
    pub fd: u32,
    /// In: `O_CLOEXEC` and how the descriptor may be used.
    pub fd_flags: u32,
    /// In: must be 0.
    pub heap_flags: u64,
}

/// Allocates a buffer from the heap that the descriptor is open on.
pub const DMA_HEAP_IOCTL_ALLOC: Ioctl = Ioctl::new::<HeapAllocation>(IoctlDirection::ReadWrite, b'H', 0);

bitflags! {
    /// Flags of [`DMA_BUF_IOCTL_SYNC`]; without `END` it starts an access.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SyncFlags: u64 {
        /// The program reads what a device wrote.
        const READ = 1;
        /// The program writes what a device will read.
        const WRITE = 2;
        /// The access is over.
        const END = 4;
    }
}

/// Argument of [`DMA_BUF_IOCTL_SYNC`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferSync {
    /// [`SyncFlags`].
    pub flags: u64,
}

/// Brackets the program's access to a dma-buf. `EIO`: a device that has it was blocked for its faults, so that what it
/// should have written may not be there; `poll` reports `POLLERR` meanwhile.
pub const DMA_BUF_IOCTL_SYNC: Ioctl = Ioctl::new::<BufferSync>(IoctlDirection::Write, b'b', 0);

/// Where one chunk of a buffer is; `len` bytes each, in the order of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferChunk {
    /// The device's address (of the first attachment), or [`NOT_ATTACHED`].
    pub iova: u64,
    /// Where it is in RAM.
    pub pa: u64,
    /// Bytes.
    pub len: u64,
}

/// A chunk's `iova` while no device has the buffer.
pub const NOT_ATTACHED: u64 = u64::MAX;

/// Argument of [`DMA_BUF_CHUNKS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChunkQuery {
    /// In: number of the first chunk wanted.
    pub first: u64,
    /// In: chunks that fit at `chunks`.
    pub capacity: u64,
    /// In: address of an array of [`BufferChunk`].
    pub chunks: u64,
    /// Out: chunks that were written.
    pub written: u64,
    /// Out: chunks of the whole buffer.
    pub total: u64,
}

/// Tessera's own, on a dma-buf: the chunks it is made of. Linux answers `ENOTTY`.
pub const DMA_BUF_CHUNKS: Ioctl = Ioctl::new::<ChunkQuery>(IoctlDirection::ReadWrite, b'T', 0);

/// A counter now and the highest value it had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Now.
    pub now: u64,
    /// The highest value so far.
    pub peak: u64,
}

/// What all buffers together cost; argument of [`DMA_STATISTICS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statistics {
    /// Bytes of buffers in lowmem.
    pub low_bytes: Counter,
    /// Bytes of buffers in highmem.
    pub high_bytes: Counter,
    /// Bytes of kernel mappings of buffers (vmalloc).
    pub vmalloc_bytes: Counter,
    /// Frames that are page tables of devices.
    pub table_pages: Counter,
    /// Ranges of device addresses in use.
    pub iova_ranges: Counter,
    /// Commands given to the IOMMU.
    pub commands: Counter,
    /// Of these, waits for completion.
    pub syncs: Counter,
}

/// Tessera's own, on a heap or a dma-buf: what DMA costs. Linux answers `ENOTTY`.
pub const DMA_STATISTICS: Ioctl = Ioctl::new::<Statistics>(IoctlDirection::Read, b'T', 1);

/// Descriptors by size that map a buffer; argument of [`DMA_BUF_LEAVES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Leaves {
    /// Blocks of 1 GiB.
    pub blocks_1g: u64,
    /// Blocks of 2 MiB.
    pub blocks_2m: u64,
    /// Pages of 4 KiB with the contiguous hint.
    pub contiguous_pages: u64,
    /// Pages of 4 KiB without it.
    pub pages: u64,
}

/// Tessera's own, on a dma-buf: how the calling program's page tables map it. Linux answers `ENOTTY`.
pub const DMA_BUF_LEAVES: Ioctl = Ioctl::new::<Leaves>(IoctlDirection::Read, b'T', 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_requests_have_linux_numbers() {
        assert_eq!(DMA_HEAP_IOCTL_ALLOC.raw(), 0xc018_4800);
        assert_eq!(DMA_BUF_IOCTL_SYNC.raw(), 0x4008_6200);
    }

    #[test]
    fn requests_of_one_family_differ() {
        let ours = [DMA_BUF_CHUNKS, DMA_STATISTICS, DMA_BUF_LEAVES];
        for (n, request) in ours.iter().enumerate() {
            assert!(!ours[n + 1..].contains(request));
        }
    }
}
