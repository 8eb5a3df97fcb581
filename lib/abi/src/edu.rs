//! Requests of `/dev/edu0`: the device that QEMU has for teaching, with a DMA engine and a buffer of 4 KiB of its own.

use crate::{Ioctl, IoctlDirection};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the device's own buffer.
pub const EDU_BUFFER_BYTES: u64 = 4096;

/// Argument of [`EDU_IMPORT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduImport {
    /// In: the dma-buf.
    pub fd: i32,
    /// Padding.
    pub gap_fd: u32,
    /// Out: the device's address of its first byte.
    pub device_address: u64,
    /// Out: its length in bytes.
    pub len: u64,
}

/// Maps a dma-buf for the device: it may reach it from now on, until [`EDU_RELEASE`] or the file is closed.
pub const EDU_IMPORT: Ioctl = Ioctl::new::<EduImport>(IoctlDirection::ReadWrite, b'E', 0);

/// Argument of [`EDU_RELEASE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduRelease {
    /// The address that [`EDU_IMPORT`] gave.
    pub device_address: u64,
}

/// Takes an imported buffer from the device: its accesses are aborted from now on.
pub const EDU_RELEASE: Ioctl = Ioctl::new::<EduRelease>(IoctlDirection::Write, b'E', 1);

/// From memory into the device's buffer.
pub const EDU_TO_DEVICE: u32 = 0;
/// From the device's buffer into memory.
pub const EDU_FROM_DEVICE: u32 = 1;

/// Argument of [`EDU_COPY`] and [`EDU_COPY_PAGES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EduCopy {
    /// [`EDU_TO_DEVICE`] or [`EDU_FROM_DEVICE`].
    pub direction: u32,
    /// Must be 0.
    pub flags: u32,
    /// Where in the device's buffer; offset and length must stay inside [`EDU_BUFFER_BYTES`].
    pub buffer_offset: u64,
    /// `EDU_COPY`: the device's address, of whatever the program likes - the IOMMU is the judge.
    /// `EDU_COPY_PAGES`: an address of the program.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Starts a copy and sleeps until the device's interrupt says that it is over. `EIO`: the IOMMU aborted some of it, or all
/// since the device was blocked for its faults; whoever opens the device next gets it back.
pub const EDU_COPY: Ioctl = Ioctl::new::<EduCopy>(IoctlDirection::Write, b'E', 2);

/// The same for memory of the program that is no dma-buf: its pages are pinned and mapped for the device while it runs.
pub const EDU_COPY_PAGES: Ioctl = Ioctl::new::<EduCopy>(IoctlDirection::Write, b'E', 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_no_hidden_gaps() {
        assert_eq!((size_of::<EduImport>(), size_of::<EduCopy>()), (24, 32));
        assert_eq!(EDU_IMPORT.raw(), 0xc018_4500);
        assert_eq!(EDU_COPY.raw(), 0x4020_4502);
    }
}
