//! Errors of allocations and mappings.

use crate::DmaMask;
use addr::{AddrRange, Iova, PhysAddr, Size};
use core::fmt;

/// The reason an allocation, an attachment or a mapping failed. All its effects have been undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// The requested length is 0.
    ZeroLength,
    /// The requested length exceeds the address space.
    TooLong {
        /// The requested bytes.
        len: u64,
    },
    /// The memory, or a buffer of this length, is beyond the DMA mask.
    PastMask {
        /// The requested bytes.
        len: u64,
        /// The DMA mask.
        mask: DmaMask,
    },
    /// No window of `dma-ranges` contains the memory; a larger DMA mask would not help.
    OutsideDmaRanges {
        /// The memory: that of the mapping, or all RAM.
        memory: AddrRange<PhysAddr>,
    },
    /// The memory is above the physical addresses that the IOMMU can put out.
    // Only words as fields: with a smaller one the tag becomes a byte, which costs each map and unmap 14 to
    // 23 instructions.
    AboveIommu {
        /// The last byte of the memory, or of its first run above the limit.
        last: PhysAddr,
        /// The IOMMU's highest output address.
        highest: PhysAddr,
    },
    /// Too few free frames that the device can address, or no contiguous run.
    OutOfFrames {
        /// The number of frames requested.
        wanted: u64,
        /// The number of frames found.
        had: u64,
    },
    /// The kernel's heap is full.
    OutOfHeap,
    /// No free IOVA range below the DMA mask.
    OutOfIova {
        /// The requested bytes.
        len: u64,
        /// The highest address that the device can use.
        highest: Iova,
    },
    /// The kernel's vmalloc area is full.
    OutOfVmalloc {
        /// The requested bytes.
        len: u64,
    },
    /// No frame for a page table.
    OutOfTables,
    /// The memory is scattered, and a device without IOMMU needs one contiguous run.
    Scattered {
        /// The number of runs.
        runs: usize,
    },
    /// A segment of a scatter-gather list does not start or end at a page boundary, so that the list cannot
    /// be mapped as one range of device addresses.
    UnalignedSegment {
        /// The index of the segment.
        index: usize,
    },
    /// The start or the end shares a cache line with other data, and the device does not snoop the caches.
    SharedLine {
        /// The byte offset in the first page.
        offset: u64,
        /// The requested bytes.
        len: u64,
    },
    /// The IOMMU did not respond in time. Memory that it may still map is leaked.
    IommuTimeout,
    /// The IOMMU rejects the device: no stream, no free ASID or VMID, or the stream is attached to another
    /// domain.
    IommuRefused,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroLength => write!(f, "length is 0"),
            Self::TooLong { len } => write!(f, "{} exceed the address space", Size(len)),
            Self::PastMask { len, mask } => write!(f, "{} exceed the DMA mask {mask}", Size(len)),
            Self::OutsideDmaRanges { memory } => {
                write!(f, "memory {memory:?} is outside the windows of dma-ranges")
            }
            Self::AboveIommu { last, highest } => {
                write!(f, "memory at {last} is above {highest}, the IOMMU's highest output address")
            }
            Self::OutOfFrames { wanted, had } => write!(f, "out of frames: {wanted} requested, {had} found"),
            Self::OutOfHeap => write!(f, "out of heap"),
            Self::OutOfIova { len, highest } => {
                write!(f, "no free range of {} in the IOVAs up to {highest}", Size(len))
            }
            Self::OutOfVmalloc { len } => write!(f, "out of vmalloc space: {} requested", Size(len)),
            Self::OutOfTables => write!(f, "out of page table frames"),
            Self::Scattered { runs } => write!(f, "{runs} runs of memory for a device without IOMMU"),
            Self::UnalignedSegment { index } => {
                write!(f, "segment {index} is not aligned to a page boundary")
            }
            Self::SharedLine { offset, len } => {
                write!(f, "{len} bytes at offset {offset:#x} share a cache line with other data")
            }
            Self::IommuTimeout => write!(f, "IOMMU timeout"),
            Self::IommuRefused => write!(f, "device rejected by the IOMMU"),
        }
    }
}

impl core::error::Error for DmaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_contain_the_values() {
        let cases = [
            (
                DmaError::PastMask { len: 512 << 20, mask: DmaMask::bits(28) },
                "512 MiB exceed the DMA mask 0xfffffff",
            ),
            (
                DmaError::OutsideDmaRanges {
                    memory: AddrRange::new(PhysAddr::new(0x1000), PhysAddr::new(0x4000_0000)),
                },
                "memory 0x1000..0x40000000 is outside the windows of dma-ranges",
            ),
            (DmaError::OutOfFrames { wanted: 7, had: 3 }, "out of frames: 7 requested, 3 found"),
            (
                DmaError::AboveIommu {
                    last: PhysAddr::new(0x1_0000_0fff),
                    highest: PhysAddr::new(0xffff_ffff),
                },
                "memory at 0x100000fff is above 0xffffffff, the IOMMU's highest output address",
            ),
            (DmaError::ZeroLength, "length is 0"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
