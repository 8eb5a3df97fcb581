//! dma-buf and dma-heap ioctls (Linux `dma-heap.h`, `dma-buf.h`), and Tessera's statistics ioctls.

use crate::{Ioctl, IoctlDirection};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct dma_heap_allocation_data`, the argument of [`DMA_HEAP_IOCTL_ALLOC`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeapAllocation {
    /// In: length in bytes.
    pub len: u64,
    /// Out: the new dma-buf descriptor; In: must be 0.
    pub fd: u32,
    /// In: `O_CLOEXEC` and access mode.
    pub fd_flags: u32,
    /// In: must be 0.
    pub heap_flags: u64,
}

/// Allocates a buffer from the heap.
pub const DMA_HEAP_IOCTL_ALLOC: Ioctl = Ioctl::new::<HeapAllocation>(IoctlDirection::ReadWrite, b'H', 0);

bitflags! {
    /// Flags of [`DMA_BUF_IOCTL_SYNC`] (`DMA_BUF_SYNC_*`); without `END` a CPU access starts.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SyncFlags: u64 {
        /// CPU reads.
        const READ = 1;
        /// CPU writes.
        const WRITE = 2;
        /// The CPU access ends.
        const END = 4;
    }
}

/// `struct dma_buf_sync`, the argument of [`DMA_BUF_IOCTL_SYNC`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferSync {
    /// [`SyncFlags`].
    pub flags: u64,
}

/// Starts or ends CPU access to a dma-buf. `EIO`: an attached device is quarantined after too many faults, so
/// its data may be missing; `poll` reports `POLLERR` meanwhile.
pub const DMA_BUF_IOCTL_SYNC: Ioctl = Ioctl::new::<BufferSync>(IoctlDirection::Write, b'b', 0);

/// The length of a buffer's name, including the terminating zero.
pub const DMA_BUF_NAME_LEN: usize = 32;

/// Sets the name of a dma-buf; the argument is a pointer to a string. The size in the number is that of a
/// pointer of 32 bits.
pub const DMA_BUF_SET_NAME_A: Ioctl = Ioctl::new::<u32>(IoctlDirection::Write, b'b', 1);
/// As [`DMA_BUF_SET_NAME_A`], with the size of a pointer of 64 bits.
pub const DMA_BUF_SET_NAME_B: Ioctl = Ioctl::new::<u64>(IoctlDirection::Write, b'b', 1);

/// `struct dma_buf_export_sync_file` and `struct dma_buf_import_sync_file`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferSyncFile {
    /// In: [`SyncFlags`] without `END`, at least one.
    pub flags: u32,
    /// The descriptor of the sync file; out for the export, in for the import.
    pub fd: i32,
}

/// Creates a sync file of the fences that an access to a dma-buf has to wait for: those of writing devices
/// for `READ`, all for `WRITE`.
pub const DMA_BUF_IOCTL_EXPORT_SYNC_FILE: Ioctl =
    Ioctl::new::<BufferSyncFile>(IoctlDirection::ReadWrite, b'b', 2);
/// Adds the fences of a sync file to those of a dma-buf, as fences of a writer for `WRITE`, else of a reader.
pub const DMA_BUF_IOCTL_IMPORT_SYNC_FILE: Ioctl =
    Ioctl::new::<BufferSyncFile>(IoctlDirection::Write, b'b', 3);

/// A chunk of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferChunk {
    /// IOVA in the first attachment, or [`NOT_ATTACHED`].
    pub iova: u64,
    /// Physical address.
    pub pa: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The `iova` of a chunk without an attachment.
pub const NOT_ATTACHED: u64 = u64::MAX;

/// Argument of [`DMA_BUF_CHUNKS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChunkQuery {
    /// In: index of the first chunk to return.
    pub first: u64,
    /// In: capacity of the array at `chunks`.
    pub capacity: u64,
    /// In: address of an array of [`BufferChunk`].
    pub chunks: u64,
    /// Out: number of chunks written.
    pub written: u64,
    /// Out: number of chunks of the buffer.
    pub total: u64,
}

/// Returns the chunks of a dma-buf, in buffer order. Tessera only; Linux returns `ENOTTY`.
pub const DMA_BUF_CHUNKS: Ioctl = Ioctl::new::<ChunkQuery>(IoctlDirection::ReadWrite, b'T', 0);

/// A counter with its peak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// The current value.
    pub now: u64,
    /// The highest value since boot.
    pub peak: u64,
}

/// Resource usage of all buffers; argument of [`DMA_STATISTICS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statistics {
    /// Bytes of buffers in lowmem.
    pub low_bytes: Counter,
    /// Bytes of buffers in highmem.
    pub high_bytes: Counter,
    /// Bytes of kernel mappings of buffers (vmalloc).
    pub vmalloc_bytes: Counter,
    /// Page-table pages of IOMMU domains.
    pub table_pages: Counter,
    /// Allocated IOVA ranges.
    pub iova_ranges: Counter,
    /// IOMMU commands.
    pub commands: Counter,
    /// CMD_SYNCs among them.
    pub syncs: Counter,
}

/// Returns the resource usage of all buffers, on a heap or a dma-buf. Tessera only; Linux returns `EINVAL` or
/// `ENOTTY`.
pub const DMA_STATISTICS: Ioctl = Ioctl::new::<Statistics>(IoctlDirection::Read, b'T', 1);

/// Number of leaf descriptors by size; argument of [`DMA_BUF_LEAVES`].
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

/// Returns the leaf descriptors that map a dma-buf in the calling process. Tessera only; Linux returns
/// `ENOTTY`.
pub const DMA_BUF_LEAVES: Ioctl = Ioctl::new::<Leaves>(IoctlDirection::Read, b'T', 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_ioctl_numbers_match() {
        assert_eq!(DMA_HEAP_IOCTL_ALLOC.raw(), 0xc018_4800);
        assert_eq!(DMA_BUF_IOCTL_SYNC.raw(), 0x4008_6200);
        assert_eq!((DMA_BUF_SET_NAME_A.raw(), DMA_BUF_SET_NAME_B.raw()), (0x4004_6201, 0x4008_6201));
        assert_eq!(DMA_BUF_IOCTL_EXPORT_SYNC_FILE.raw(), 0xc008_6202);
        assert_eq!(DMA_BUF_IOCTL_IMPORT_SYNC_FILE.raw(), 0x4008_6203);
    }

    #[test]
    fn own_ioctl_numbers_are_unique() {
        let ours = [DMA_BUF_CHUNKS, DMA_STATISTICS, DMA_BUF_LEAVES];
        for (n, request) in ours.iter().enumerate() {
            assert!(!ours[n + 1..].contains(request));
        }
    }
}
