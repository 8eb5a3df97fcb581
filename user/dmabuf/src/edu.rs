//! QEMU's device for teaching, as `/dev/edu0`: it copies between memory and 4 KiB of its own. On a Raspberry Pi a
//! channel of the DMA engine does the same, by the same requests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use abi::edu::{
    EDU_COPY, EDU_COPY_PAGES, EDU_FROM_DEVICE, EDU_IMPORT, EDU_RELEASE, EDU_TO_DEVICE, EduCopy, EduImport,
    EduRelease,
};

use crate::request;

/// The devices of this kind, the first that is there is taken.
const PATHS: [&str; 2] = ["/dev/edu0", "/dev/bcm2835-dma0"];

/// The open device.
#[derive(Debug)]
pub struct Edu {
    file: File,
}

/// A buffer that the device may reach until it is dropped.
#[derive(Debug)]
pub struct ImportedBuffer<'edu> {
    edu: &'edu Edu,
    /// The device's address of the buffer's first byte.
    pub address: u64,
    /// The buffer's length in bytes, as the device sees it.
    pub len: u64,
}

impl Edu {
    /// Opens the device.
    ///
    /// # Errors
    /// Names the path: a machine without it is the most likely reason.
    pub fn open() -> io::Result<Self> {
        let [usual, other] = PATHS.map(|path| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        });
        usual.or_else(|error| other.map_err(|_| error)).map(|file| Self { file })
    }

    /// Lets the device reach a dma-buf.
    ///
    /// # Errors
    /// `EBADF` or `EINVAL` if it is none, `ENOMEM` without tables or addresses for it.
    pub fn import(&self, buffer: &impl AsFd) -> io::Result<ImportedBuffer<'_>> {
        let fd = buffer.as_fd().as_raw_fd();
        let mut import = EduImport { fd, gap_fd: 0, device_address: 0, len: 0 };
        request(&self.file, EDU_IMPORT, &mut import)?;
        Ok(ImportedBuffer { edu: self, address: import.device_address, len: import.len })
    }

    /// Copies from memory, at the device's address, into the device's own buffer.
    ///
    /// # Errors
    /// `EINVAL` if it does not fit into the device's buffer, `ERANGE` past what the device can address, `EIO` if the IOMMU
    /// aborted some of it.
    pub fn load(&self, address: u64, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY, EDU_TO_DEVICE, address, len, buffer_offset)
    }

    /// Copies from the device's own buffer into memory, at the device's address.
    ///
    /// # Errors
    /// As [`Edu::load`].
    pub fn store(&self, address: u64, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY, EDU_FROM_DEVICE, address, len, buffer_offset)
    }

    /// Copies this program's own memory into the device's buffer; its pages are pinned meanwhile.
    ///
    /// # Errors
    /// `EFAULT` if the program may not read there, else as [`Edu::load`].
    pub fn load_pages(&self, address: *const u8, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY_PAGES, EDU_TO_DEVICE, address.expose_provenance() as u64, len, buffer_offset)
    }

    /// Copies the device's buffer into this program's own memory; its pages are pinned meanwhile.
    ///
    /// # Errors
    /// `EFAULT` if the program may not write there, else as [`Edu::load`].
    ///
    /// # Safety
    /// `address` is valid for writes of `len` bytes, and no reference to them lives.
    pub unsafe fn store_pages(&self, address: *mut u8, len: u64, buffer_offset: u64) -> io::Result<()> {
        self.copy(EDU_COPY_PAGES, EDU_FROM_DEVICE, address.expose_provenance() as u64, len, buffer_offset)
    }

    fn copy(
        &self,
        what: abi::Ioctl,
        direction: u32,
        address: u64,
        len: u64,
        buffer_offset: u64,
    ) -> io::Result<()> {
        request(&self.file, what, &mut EduCopy { direction, flags: 0, buffer_offset, address, len })
    }
}

impl Drop for ImportedBuffer<'_> {
    fn drop(&mut self) {
        // Closing the device would release it too, so a refusal here loses nothing.
        let _ = request(&self.edu.file, EDU_RELEASE, &mut EduRelease { device_address: self.address });
    }
}
