//! VFIO (Linux `include/uapi/linux/vfio.h`): user-space drivers for PCI functions.
//!
//! The first field of each structure is `argsz`, its size in the program: a smaller one is `EINVAL`, a larger
//! one has room for capabilities.

use crate::{Ioctl, IoctlDirection};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The type of the ioctls of VFIO and iommufd.
pub const IOCTL_TYPE: u8 = b';';

const fn ioctl(number: u8) -> Ioctl {
    Ioctl::new::<()>(IoctlDirection::None, IOCTL_TYPE, number)
}

/// Container: returns [`API_VERSION`].
pub const VFIO_GET_API_VERSION: Ioctl = ioctl(100);
/// Container: returns whether an extension is supported.
pub const VFIO_CHECK_EXTENSION: Ioctl = ioctl(101);
/// Container: selects [`TYPE1_IOMMU`] or [`TYPE1V2_IOMMU`].
pub const VFIO_SET_IOMMU: Ioctl = ioctl(102);
/// Group: [`GroupStatus`].
pub const VFIO_GROUP_GET_STATUS: Ioctl = ioctl(103);
/// Group: adds the group to the container with this descriptor.
pub const VFIO_GROUP_SET_CONTAINER: Ioctl = ioctl(104);
/// Group: removes the group from its container.
pub const VFIO_GROUP_UNSET_CONTAINER: Ioctl = ioctl(105);
/// Group: opens a device by its name.
pub const VFIO_GROUP_GET_DEVICE_FD: Ioctl = ioctl(106);
/// Device: [`DeviceInfo`].
pub const VFIO_DEVICE_GET_INFO: Ioctl = ioctl(107);
/// Device: [`RegionInfo`].
pub const VFIO_DEVICE_GET_REGION_INFO: Ioctl = ioctl(108);
/// Device: [`IrqInfo`].
pub const VFIO_DEVICE_GET_IRQ_INFO: Ioctl = ioctl(109);
/// Device: [`IrqSet`].
pub const VFIO_DEVICE_SET_IRQS: Ioctl = ioctl(110);
/// Device: resets the function.
pub const VFIO_DEVICE_RESET: Ioctl = ioctl(111);
/// Container: [`Type1Info`].
pub const VFIO_IOMMU_GET_INFO: Ioctl = ioctl(112);
/// Container: [`Type1Map`].
pub const VFIO_IOMMU_MAP_DMA: Ioctl = ioctl(113);
/// Container: [`Type1Unmap`].
pub const VFIO_IOMMU_UNMAP_DMA: Ioctl = ioctl(114);
/// Device: [`DeviceFeature`].
pub const VFIO_DEVICE_FEATURE: Ioctl = ioctl(117);
/// Device: [`BindIommufd`].
pub const VFIO_DEVICE_BIND_IOMMUFD: Ioctl = ioctl(118);
/// Device: [`AttachIommufd`].
pub const VFIO_DEVICE_ATTACH_IOMMUFD_PT: Ioctl = ioctl(119);
/// Device: [`DetachIommufd`].
pub const VFIO_DEVICE_DETACH_IOMMUFD_PT: Ioctl = ioctl(120);

/// The version of the interface.
pub const API_VERSION: u64 = 0;

/// An IOMMU of which a page of a mapping can be unmapped, with the whole mapping.
pub const TYPE1_IOMMU: u64 = 1;
/// An IOMMU whose mappings are unmapped whole.
pub const TYPE1V2_IOMMU: u64 = 3;
/// The extension of DMA that snoops the CPU caches.
pub const DMA_CC_IOMMU: u64 = 4;
/// The extension of mappings whose virtual addresses change.
pub const UPDATE_VADDR: u64 = 10;
/// The extension `VFIO_DMA_UNMAP_FLAG_ALL`.
pub const UNMAP_ALL: u64 = 9;

/// [`GroupStatus::flags`]: no function of the group has a kernel driver.
pub const GROUP_VIABLE: u32 = 1;
/// [`GroupStatus::flags`]: the group is in a container.
pub const GROUP_CONTAINER_SET: u32 = 2;

/// Argument of [`VFIO_GROUP_GET_STATUS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GroupStatus {
    /// The size of the structure.
    pub argsz: u32,
    /// [`GROUP_VIABLE`], [`GROUP_CONTAINER_SET`].
    pub flags: u32,
}

/// [`DeviceInfo::flags`]: the function can be reset.
pub const DEVICE_RESET: u32 = 1;
/// [`DeviceInfo::flags`]: a PCI function.
pub const DEVICE_PCI: u32 = 2;

/// Argument of [`VFIO_DEVICE_GET_INFO`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// The size of the structure.
    pub argsz: u32,
    /// [`DEVICE_RESET`], [`DEVICE_PCI`].
    pub flags: u32,
    /// The number of regions.
    pub num_regions: u32,
    /// The number of interrupt kinds.
    pub num_irqs: u32,
    /// The offset of the first capability; 0 without any.
    pub cap_offset: u32,
    /// Padding.
    pub gap: u32,
}

/// Region index of configuration space; those of the BARs are 0 to 5.
pub const REGION_CONFIG: u32 = 7;
/// Region index of the expansion ROM.
pub const REGION_ROM: u32 = 6;
/// Region index of the VGA ranges, which no function has here.
pub const REGION_VGA: u32 = 8;
/// The number of regions of a PCI function.
pub const NUM_REGIONS: u32 = 9;
/// The file offset of a region is its index shifted by this.
pub const REGION_SHIFT: u32 = 40;

bitflags! {
    /// [`RegionInfo::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RegionFlags: u32 {
        /// `pread`.
        const READ = 1;
        /// `pwrite`.
        const WRITE = 2;
        /// `mmap`.
        const MMAP = 4;
        /// Capabilities follow the structure.
        const CAPS = 8;
    }
}

/// Argument of [`VFIO_DEVICE_GET_REGION_INFO`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionInfo {
    /// The size of the structure.
    pub argsz: u32,
    /// [`RegionFlags`].
    pub flags: u32,
    /// In: the region.
    pub index: u32,
    /// The offset of the first capability; 0 without any.
    pub cap_offset: u32,
    /// Bytes.
    pub size: u64,
    /// The offset of the region in the file.
    pub offset: u64,
}

/// Interrupt index of INTx.
pub const IRQ_INTX: u32 = 0;
/// Interrupt index of MSI.
pub const IRQ_MSI: u32 = 1;
/// Interrupt index of MSI-X.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt index of errors.
pub const IRQ_ERROR: u32 = 3;
/// Interrupt index of requests to return the device.
pub const IRQ_REQUEST: u32 = 4;
/// The number of interrupt kinds of a PCI function.
pub const NUM_IRQS: u32 = 5;

bitflags! {
    /// [`IrqInfo::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct IrqFlags: u32 {
        /// Signals an eventfd.
        const EVENTFD = 1;
        /// Can be masked.
        const MASKABLE = 2;
        /// Masks itself.
        const AUTOMASKED = 4;
        /// The number of vectors cannot change while enabled.
        const NORESIZE = 8;
    }
}

/// Argument of [`VFIO_DEVICE_GET_IRQ_INFO`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqInfo {
    /// The size of the structure.
    pub argsz: u32,
    /// [`IrqFlags`].
    pub flags: u32,
    /// In: the kind of interrupt.
    pub index: u32,
    /// The number of vectors.
    pub count: u32,
}

bitflags! {
    /// [`IrqSet::flags`]: one kind of data and one action.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct IrqSetFlags: u32 {
        /// No data.
        const DATA_NONE = 1;
        /// A byte for each vector.
        const DATA_BOOL = 2;
        /// An `i32` for each vector: an eventfd, or -1.
        const DATA_EVENTFD = 4;
        /// Masks the vectors.
        const MASK = 8;
        /// Unmasks the vectors.
        const UNMASK = 0x10;
        /// Signals the vectors, or sets their eventfds.
        const TRIGGER = 0x20;
    }
}

/// Argument of [`VFIO_DEVICE_SET_IRQS`], which the data follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqSet {
    /// The size of the structure with its data.
    pub argsz: u32,
    /// [`IrqSetFlags`].
    pub flags: u32,
    /// The kind of interrupt.
    pub index: u32,
    /// The first vector.
    pub start: u32,
    /// The number of vectors.
    pub count: u32,
}

/// The head of a capability that follows a structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapabilityHeader {
    /// The kind, in the context of the structure.
    pub id: u16,
    /// The version of the kind.
    pub version: u16,
    /// The offset of the next capability; 0 for the last.
    pub next: u32,
}

/// Capability of a region: its MSI-X table can be mapped.
pub const REGION_CAP_MSIX_MAPPABLE: u16 = 3;
/// Capability of [`Type1Info`]: the usable IOVA ranges.
pub const TYPE1_CAP_IOVA_RANGE: u16 = 1;
/// Capability of [`Type1Info`]: the page sizes of dirty tracking.
pub const TYPE1_CAP_MIGRATION: u16 = 2;
/// Capability of [`Type1Info`]: the number of further mappings.
pub const TYPE1_CAP_DMA_AVAIL: u16 = 3;

/// [`Type1Info::flags`]: `iova_pgsizes` is valid.
pub const TYPE1_INFO_PGSIZES: u32 = 1;
/// [`Type1Info::flags`]: capabilities are supported.
pub const TYPE1_INFO_CAPS: u32 = 2;

/// Argument of [`VFIO_IOMMU_GET_INFO`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Type1Info {
    /// The size of the structure, and of that with its capabilities.
    pub argsz: u32,
    /// [`TYPE1_INFO_PGSIZES`], [`TYPE1_INFO_CAPS`].
    pub flags: u32,
    /// A bit for each page size.
    pub iova_pgsizes: u64,
    /// The offset of the first capability; 0 without room for them.
    pub cap_offset: u32,
    /// Padding.
    pub gap: u32,
}

bitflags! {
    /// [`Type1Map::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Type1MapFlags: u32 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 2;
    }
}

/// Argument of [`VFIO_IOMMU_MAP_DMA`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Type1Map {
    /// The size of the structure.
    pub argsz: u32,
    /// [`Type1MapFlags`].
    pub flags: u32,
    /// The virtual address in the program, page-aligned.
    pub vaddr: u64,
    /// The IOVA, page-aligned.
    pub iova: u64,
    /// Bytes, whole pages.
    pub size: u64,
}

/// [`Type1Unmap::flags`]: all mappings; IOVA and size are 0.
pub const DMA_UNMAP_ALL: u32 = 2;

/// Argument of [`VFIO_IOMMU_UNMAP_DMA`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Type1Unmap {
    /// The size of the structure.
    pub argsz: u32,
    /// [`DMA_UNMAP_ALL`].
    pub flags: u32,
    /// The first IOVA, page-aligned.
    pub iova: u64,
    /// In: bytes, whole pages. Out: the bytes unmapped.
    pub size: u64,
}

/// [`BindIommufd::flags`]: the token of the physical function is given.
pub const BIND_TOKEN: u32 = 1;

/// Argument of [`VFIO_DEVICE_BIND_IOMMUFD`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIommufd {
    /// The size of the structure.
    pub argsz: u32,
    /// [`BIND_TOKEN`].
    pub flags: u32,
    /// The descriptor of the iommufd.
    pub iommufd: i32,
    /// Out: the id of the device in the iommufd.
    pub out_devid: u32,
    /// The address of the token.
    pub token_uuid_ptr: u64,
}

/// The size of [`BindIommufd`] without the token.
pub const BIND_MIN: usize = 16;

/// Argument of [`VFIO_DEVICE_ATTACH_IOMMUFD_PT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachIommufd {
    /// The size of the structure.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
    /// In: the id of an I/O address space. Out: that of its page table.
    pub pt_id: u32,
}

/// Argument of [`VFIO_DEVICE_DETACH_IOMMUFD_PT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DetachIommufd {
    /// The size of the structure.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
}

/// [`DeviceFeature::flags`]: the number of the feature.
pub const FEATURE_MASK: u32 = 0xffff;

/// Argument of [`VFIO_DEVICE_FEATURE`], which the data follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceFeature {
    /// The size of the structure with its data.
    pub argsz: u32,
    /// [`FEATURE_MASK`], and the operation.
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of a C program on Linux.
    #[test]
    fn numbers_and_sizes_match_linux() {
        assert_eq!(VFIO_GET_API_VERSION.raw(), 0x3b64);
        assert_eq!(VFIO_DEVICE_DETACH_IOMMUFD_PT.raw(), 0x3b78);
        let sizes = [
            (size_of::<GroupStatus>(), 8),
            (size_of::<DeviceInfo>(), 24),
            (size_of::<RegionInfo>(), 32),
            (size_of::<IrqInfo>(), 16),
            (size_of::<IrqSet>(), 20),
            (size_of::<Type1Info>(), 24),
            (size_of::<Type1Map>(), 32),
            (size_of::<Type1Unmap>(), 24),
            (size_of::<BindIommufd>(), 24),
            (size_of::<AttachIommufd>(), 12),
            (size_of::<DetachIommufd>(), 8),
            (size_of::<DeviceFeature>(), 8),
        ];
        sizes.iter().for_each(|(size, expected)| assert_eq!(size, expected));
    }
}
