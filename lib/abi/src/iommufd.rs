//! iommufd (Linux `include/uapi/linux/iommufd.h`): I/O address spaces that a program manages.
//!
//! The first field of each structure is its size in the program: a smaller one is `EINVAL`; bytes behind the
//! structure must be 0.

use crate::vfio::IOCTL_TYPE;
use crate::{Ioctl, IoctlDirection};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const fn ioctl(number: u8) -> Ioctl {
    Ioctl::new::<()>(IoctlDirection::None, IOCTL_TYPE, number)
}

/// Destroys an object: [`Destroy`].
pub const IOMMU_DESTROY: Ioctl = ioctl(0x80);
/// Creates an I/O address space: [`IoasAlloc`].
pub const IOMMU_IOAS_ALLOC: Ioctl = ioctl(0x81);
/// Returns the usable IOVAs: [`IoasIovaRanges`].
pub const IOMMU_IOAS_IOVA_RANGES: Ioctl = ioctl(0x84);
/// Maps memory of the program: [`IoasMap`].
pub const IOMMU_IOAS_MAP: Ioctl = ioctl(0x85);
/// Unmaps mappings: [`IoasUnmap`].
pub const IOMMU_IOAS_UNMAP: Ioctl = ioctl(0x86);
/// Maps a dma-buf: [`IoasMapFile`].
pub const IOMMU_IOAS_MAP_FILE: Ioctl = ioctl(0x8f);
/// The first and the last number of Linux's calls.
pub const NUMBERS: core::ops::RangeInclusive<u8> = 0x80..=0x95;

/// Argument of [`IOMMU_DESTROY`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Destroy {
    /// The size of the structure.
    pub size: u32,
    /// The object.
    pub id: u32,
}

/// Argument of [`IOMMU_IOAS_ALLOC`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasAlloc {
    /// The size of the structure.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Out: the I/O address space.
    pub out_ioas_id: u32,
}

/// A range of IOVAs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IovaRange {
    /// The first.
    pub start: u64,
    /// The last.
    pub last: u64,
}

/// Argument of [`IOMMU_IOAS_IOVA_RANGES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasIovaRanges {
    /// The size of the structure.
    pub size: u32,
    /// The I/O address space.
    pub ioas_id: u32,
    /// In: the room of the array. Out: the number of ranges.
    pub num_iovas: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The address of an array of [`IovaRange`].
    pub allowed_iovas: u64,
    /// Out: the alignment of IOVAs.
    pub out_iova_alignment: u64,
}

bitflags! {
    /// [`IoasMap::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct IoasMapFlags: u32 {
        /// At the given IOVA.
        const FIXED_IOVA = 1;
        /// Devices may write.
        const WRITEABLE = 2;
        /// Devices may read.
        const READABLE = 4;
    }
}

/// Argument of [`IOMMU_IOAS_MAP`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasMap {
    /// The size of the structure.
    pub size: u32,
    /// [`IoasMapFlags`].
    pub flags: u32,
    /// The I/O address space.
    pub ioas_id: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The virtual address in the program.
    pub user_va: u64,
    /// Bytes.
    pub length: u64,
    /// In: the IOVA if it is fixed. Out: the IOVA.
    pub iova: u64,
}

/// Argument of [`IOMMU_IOAS_MAP_FILE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasMapFile {
    /// The size of the structure.
    pub size: u32,
    /// [`IoasMapFlags`].
    pub flags: u32,
    /// The I/O address space.
    pub ioas_id: u32,
    /// The descriptor of the dma-buf.
    pub fd: i32,
    /// The offset in the dma-buf.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// In: the IOVA if it is fixed. Out: the IOVA.
    pub iova: u64,
}

/// Argument of [`IOMMU_IOAS_UNMAP`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoasUnmap {
    /// The size of the structure.
    pub size: u32,
    /// The I/O address space.
    pub ioas_id: u32,
    /// The first IOVA.
    pub iova: u64,
    /// In: bytes; all of the space with [`u64::MAX`]. Out: the bytes unmapped.
    pub length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of a C program on Linux.
    #[test]
    fn numbers_and_sizes_match_linux() {
        assert_eq!((IOMMU_DESTROY.raw(), IOMMU_IOAS_MAP_FILE.raw()), (0x3b80, 0x3b8f));
        let sizes = [
            (size_of::<Destroy>(), 8),
            (size_of::<IoasAlloc>(), 12),
            (size_of::<IoasIovaRanges>(), 32),
            (size_of::<IoasMap>(), 40),
            (size_of::<IoasMapFile>(), 40),
            (size_of::<IoasUnmap>(), 24),
        ];
        sizes.iter().for_each(|(size, expected)| assert_eq!(size, expected));
    }
}
