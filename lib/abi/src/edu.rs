//! Ioctls of `/dev/edu0`: QEMU's educational device, with a DMA engine and an internal buffer of 4 KiB.

use crate::{Ioctl, IoctlDirection};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of the device's internal buffer in bytes.
pub const EDU_BUFFER_BYTES: u64 = 4096;

/// Argument of [`EDU_IMPORT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduImport {
    /// In: dma-buf descriptor.
    pub fd: i32,
    /// Padding.
    pub gap_fd: u32,
    /// In: offset in the buffer, whole pages. Out: IOVA of the first byte.
    pub address: u64,
    /// In: bytes to map, whole pages; 0 for all from the offset on. Out: mapped bytes.
    pub len: u64,
}

/// Maps a range of a dma-buf for the device, all of it below the device's DMA mask, until [`EDU_RELEASE`] or
/// until the file is closed.
pub const EDU_IMPORT: Ioctl = Ioctl::new::<EduImport>(IoctlDirection::ReadWrite, b'E', 0);

/// Argument of [`EDU_RELEASE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduRelease {
    /// The address returned by [`EDU_IMPORT`].
    pub device_address: u64,
}

/// Unmaps an imported buffer, after the copy that uses it: the device does not access it any more. `EBUSY`: a
/// copy timed out, and the device may still access the buffer.
pub const EDU_RELEASE: Ioctl = Ioctl::new::<EduRelease>(IoctlDirection::Write, b'E', 1);

/// Copy from memory to the device's buffer.
pub const EDU_TO_DEVICE: u32 = 0;
/// Copy from the device's buffer to memory.
pub const EDU_FROM_DEVICE: u32 = 1;

/// Argument of [`EDU_COPY`] and [`EDU_COPY_PAGES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduCopy {
    /// [`EDU_TO_DEVICE`] or [`EDU_FROM_DEVICE`].
    pub direction: u32,
    /// Must be 0.
    pub flags: u32,
    /// Offset in the device's buffer; the range must be inside [`EDU_BUFFER_BYTES`].
    pub buffer_offset: u64,
    /// `EDU_COPY`: an IOVA, inside one buffer that this open file imported.
    /// `EDU_COPY_PAGES`: a virtual address of the program.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Starts a copy and sleeps until the device's completion interrupt. `EIO`: this open file has not imported
/// the address, the copy timed out, or the device is quarantined after too many faults; the next open of the
/// device file ends the quarantine. `EBUSY`: a copy that timed out is still running. `ENODEV`: the device was
/// removed; `poll` then reports `POLLHUP`.
///
/// The copy adds a fence to the dma-buf, which is signalled at the end of the copy: that of a reader for
/// [`EDU_TO_DEVICE`], else that of a writer. The copy itself waits for no fence.
pub const EDU_COPY: Ioctl = Ioctl::new::<EduCopy>(IoctlDirection::Write, b'E', 2);

/// As [`EDU_COPY`] for memory of the program: its pages are pinned and mapped for the device during the copy.
pub const EDU_COPY_PAGES: Ioctl = Ioctl::new::<EduCopy>(IoctlDirection::Write, b'E', 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_no_implicit_padding() {
        assert_eq!((size_of::<EduImport>(), size_of::<EduCopy>()), (24, 32));
        assert_eq!(EDU_IMPORT.raw(), 0xc018_4500);
        assert_eq!(EDU_COPY.raw(), 0x4020_4502);
    }
}
