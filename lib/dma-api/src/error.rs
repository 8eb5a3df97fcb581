//! Why a device did not get its memory.

use crate::DmaMask;
use addr::{Iova, Size};
use core::fmt;

/// Why an allocation, an attachment or a mapping failed. Whatever was done before is undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// Nothing was asked for.
    ZeroLength,
    /// More than there ever can be.
    TooLong {
        /// Bytes asked for.
        len: u64,
    },
    /// The device cannot address that much, or not where it lies.
    PastMask {
        /// Bytes asked for.
        len: u64,
        /// What the device can address.
        mask: DmaMask,
    },
    /// Memory is full within the device's reach, or has no run as long as that.
    OutOfFrames {
        /// Frames asked for.
        wanted: u64,
        /// Frames that were found.
        had: u64,
    },
    /// The kernel's heap is full.
    OutOfHeap,
    /// The device's address space is full below its mask.
    OutOfIova {
        /// Bytes asked for.
        len: u64,
        /// The highest address the device can use.
        highest: Iova,
    },
    /// The kernel's address space for mappings is full.
    OutOfVmalloc {
        /// Bytes asked for.
        len: u64,
    },
    /// No frame for a page table.
    OutOfTables,
    /// The memory is scattered, and a device without IOMMU needs one run.
    Scattered {
        /// The number of runs.
        runs: usize,
    },
    /// A part of a list of memory does not start or end where pages meet, so that it cannot follow, or be followed by,
    /// another in one range of addresses.
    Ragged {
        /// Which part, from 0.
        index: usize,
    },
    /// The start or the end shares a cache line with other data, and the device does not see the caches.
    SharedLine {
        /// The byte offset in the first page.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// The IOMMU did not answer in time. What it may still know is kept from everybody.
    IommuTimeout,
    /// The IOMMU refuses the device: no stream, no address space identifier left, or a stream of another domain.
    IommuRefused,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroLength => write!(f, "a length of 0"),
            Self::TooLong { len } => write!(f, "{} are too long", Size(len)),
            Self::PastMask { len, mask } => write!(f, "{} are past the mask {mask}", Size(len)),
            Self::OutOfFrames { wanted, had } => write!(f, "out of frames: {wanted} wanted, {had} found"),
            Self::OutOfHeap => write!(f, "out of heap"),
            Self::OutOfIova { len, highest } => {
                write!(f, "no {} of device addresses up to {highest}", Size(len))
            }
            Self::OutOfVmalloc { len } => write!(f, "no {} of kernel addresses", Size(len)),
            Self::OutOfTables => write!(f, "no frame for a page table"),
            Self::Scattered { runs } => write!(f, "{runs} runs of memory for a device without IOMMU"),
            Self::Ragged { index } => write!(f, "part {index} does not meet its neighbour at a page border"),
            Self::SharedLine { offset, len } => {
                write!(f, "{len} bytes at offset {offset:#x} share a cache line with other data")
            }
            Self::IommuTimeout => write!(f, "the IOMMU did not answer"),
            Self::IommuRefused => write!(f, "the IOMMU refuses the device"),
        }
    }
}

impl core::error::Error for DmaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_their_values() {
        let cases = [
            (
                DmaError::PastMask { len: 512 << 20, mask: DmaMask::bits(28) },
                "512 MiB are past the mask 0xfffffff",
            ),
            (DmaError::OutOfFrames { wanted: 7, had: 3 }, "out of frames: 7 wanted, 3 found"),
            (DmaError::ZeroLength, "a length of 0"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
