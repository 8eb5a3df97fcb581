//! `/dev/edu0`: QEMU's educational device, which copies between memory and an internal buffer of 4 KiB. On a
//! Raspberry Pi a channel of the DMA engine provides the same ioctls.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use abi::edu::{
    EDU_COPY, EDU_COPY_PAGES, EDU_FROM_DEVICE, EDU_IMPORT, EDU_RELEASE, EDU_TO_DEVICE, EduCopy, EduImport,
    EduRelease,
};

use crate::request;

/// The classes of these devices, in order of preference: the first whose device exists is used.
const CLASSES: [&str; 2] = ["edu", "bcm2835-dma"];

/// The open device file.
#[derive(Debug)]
pub struct Edu {
    file: File,
}

/// A range of a buffer attached to the device; detached when dropped.
#[derive(Debug)]
pub struct ImportedBuffer<'edu> {
    edu: &'edu Edu,
    /// The IOVA of the first byte.
    pub address: u64,
    /// The mapped length in bytes.
    pub len: u64,
}

impl Edu {
    /// Opens the device.
    ///
    /// # Errors
    /// The error of `open`, with the path.
    pub fn open() -> io::Result<Self> {
        Self::open_instance(0)
    }

    /// Opens instance `number` of the device.
    ///
    /// # Errors
    /// As for [`Edu::open`].
    pub fn open_instance(number: u32) -> io::Result<Self> {
        let [usual, other] = CLASSES.map(|class| {
            let path = format!("/dev/{class}{number}");
            let file = OpenOptions::new().read(true).write(true).open(&path);
            file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        });
        usual.or_else(|error| other.map_err(|_| error)).map(|file| Self { file })
    }

    /// Attaches a whole dma-buf to the device.
    ///
    /// # Errors
    /// `EBADF` or `EINVAL` if it is not a dma-buf, `ENOMEM` without page tables or IOVA space, `ERANGE` if
    /// the device cannot address so much memory.
    pub fn import(&self, buffer: &impl AsFd) -> io::Result<ImportedBuffer<'_>> {
        self.import_range(buffer, 0, 0)
    }

    /// Attaches `len` bytes of a dma-buf from `offset` on to the device, both whole pages; all from there on
    /// if `len` is 0.
    ///
    /// # Errors
    /// As [`Edu::import`]; `EINVAL` also if the range is not inside the dma-buf.
    pub fn import_range(&self, buffer: &impl AsFd, offset: u64, len: u64) -> io::Result<ImportedBuffer<'_>> {
        let fd = buffer.as_fd().as_raw_fd();
        let mut import = EduImport { fd, gap_fd: 0, address: offset, len };
        request(&self.file, EDU_IMPORT, &mut import)?;
        Ok(ImportedBuffer { edu: self, address: import.address, len: import.len })
    }

    /// Copies from memory at the IOVA `address` to the device's internal buffer.
    ///
    /// # Errors
    /// `EINVAL` if the range exceeds the internal buffer, `EIO` if this file did not import the address or
    /// the device is quarantined, `EBUSY` while a copy that timed out is running, `ENODEV` if the device was
    /// removed.
    pub fn load(&self, address: u64, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY, EDU_TO_DEVICE, address, len, buffer_offset)
    }

    /// Copies from the device's internal buffer to memory at the IOVA `address`.
    ///
    /// # Errors
    /// As [`Edu::load`].
    pub fn store(&self, address: u64, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY, EDU_FROM_DEVICE, address, len, buffer_offset)
    }

    /// Copies from this process's memory to the device's internal buffer. The pages are pinned during the
    /// copy.
    ///
    /// # Errors
    /// `EFAULT` if the memory is not readable, else as [`Edu::load`].
    pub fn load_pages(&self, address: *const u8, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY_PAGES, EDU_TO_DEVICE, address.expose_provenance() as u64, len, buffer_offset)
    }

    /// Copies from the device's internal buffer to this process's memory. The pages are pinned during the
    /// copy.
    ///
    /// # Errors
    /// `EFAULT` if the memory is not writable, else as [`Edu::load`].
    ///
    /// # Safety
    /// `address` must be valid for writes of `len` bytes, and no reference to them may exist.
    pub unsafe fn store_pages(&self, address: *mut u8, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY_PAGES, EDU_FROM_DEVICE, address.expose_provenance() as u64, len, buffer_offset)
    }

    fn copy(
        &self,
        ioctl: abi::Ioctl,
        direction: u32,
        address: u64,
        len: u64,
        buffer_offset: u64,
    ) -> io::Result<()> {
        request(&self.file, ioctl, &mut EduCopy { direction, flags: 0, buffer_offset, address, len })
    }
}

impl Drop for ImportedBuffer<'_> {
    fn drop(&mut self) {
        // Errors are ignored: closing the device file detaches the buffer too.
        let _ = request(&self.edu.file, EDU_RELEASE, &mut EduRelease { device_address: self.address });
    }
}
