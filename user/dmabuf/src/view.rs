//! Mapped memory that a device or another process may change at any time.
//!
//! It is not accessible as a slice: every access is a bounds-checked volatile copy of a word or byte.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// The protection of a mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protection {
    /// Read-only.
    Read,
    /// Readable and writable.
    ReadWrite,
}

impl Protection {
    fn bits(self) -> i32 {
        match self {
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// A mapping; unmapped when dropped.
#[derive(Debug)]
pub struct View {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all accesses are volatile copies.
unsafe impl Send for View {}
// SAFETY: as above; concurrent writes of a word yield one of the values, as with a device.
unsafe impl Sync for View {}

impl View {
    /// Maps the first `len` bytes of a file, shared.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn of_file(file: &impl AsFd, len: usize, protection: Protection) -> io::Result<Self> {
        Self::map(len, protection, libc::MAP_SHARED, file.as_fd().as_raw_fd())
    }

    /// Maps `len` bytes of private anonymous memory.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, Protection::ReadWrite, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn map(len: usize, protection: Protection, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED the kernel chooses an unmapped range; the descriptor, if any, is borrowed
        // by the caller for this call, and the mapping does not need it afterwards.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection.bits(), flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { at, len })
    }

    /// The length in bytes.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// The number of whole 8-byte words.
    pub fn words(&self) -> usize {
        self.len / 8
    }

    /// The start address, for tests of invalid accesses.
    pub fn pointer(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Reads the word at `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        assert!(index < self.words(), "word {index} of {}", self.words());
        // SAFETY: in bounds by the assert; aligned, since mappings are page-aligned; volatile, since others
        // may write.
        unsafe { self.at.cast::<u64>().add(index).read_volatile() }
    }

    /// Writes the word at `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[inline]
    pub fn set_word(&self, index: usize, value: u64) {
        assert!(index < self.words(), "word {index} of {}", self.words());
        // SAFETY: in bounds by the assert; aligned, since mappings are page-aligned; volatile, since others
        // may read.
        unsafe { self.at.cast::<u64>().add(index).write_volatile(value) }
    }

    /// Reads the byte at `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn byte(&self, index: usize) -> u8 {
        assert!(index < self.len, "byte {index} of {}", self.len);
        // SAFETY: in bounds by the assert; volatile, since others may write.
        unsafe { self.at.add(index).read_volatile() }
    }

    /// Unmaps whole pages of the mapping.
    ///
    /// # Errors
    /// Those of `munmap`.
    ///
    /// # Safety
    /// The caller must not access bytes in `from..from + len` afterwards, except to provoke a fault.
    pub unsafe fn unmap_part(&self, from: usize, len: usize) -> io::Result<()> {
        assert!(from + len <= self.len, "bytes {from}+{len} of {}", self.len);
        // SAFETY: inside this mapping by the assert; the caller no longer accesses these pages.
        let status = unsafe { libc::munmap(self.at.add(from).as_ptr().cast(), len) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Changes the protection of whole pages.
    ///
    /// # Errors
    /// Those of `mprotect`.
    pub fn protect(&self, from: usize, len: usize, bits: i32) -> io::Result<()> {
        assert!(from + len <= self.len, "bytes {from}+{len} of {}", self.len);
        // SAFETY: inside this mapping by the assert; a denied access faults and terminates the program, as
        // requested.
        let status = unsafe { libc::mprotect(self.at.add(from).as_ptr().cast(), len, bits) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: no borrow of the mapping outlives it. munmap cannot fail for a mapped range.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_zero_and_retains_writes() {
        let view = View::anonymous(8192).unwrap();
        assert!((0..view.words()).all(|index| view.word(index) == 0));
        view.set_word(1023, 0x0102_0304_0506_0708);
        assert_eq!((view.word(1023), view.byte(8191), view.byte(8184)), (0x0102_0304_0506_0708, 1, 8));
    }

    #[test]
    #[should_panic(expected = "word 1024 of 1024")]
    fn access_past_the_end_panics() {
        View::anonymous(8192).unwrap().word(1024);
    }

    #[test]
    fn empty_mapping_is_rejected() {
        assert_eq!(View::anonymous(0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
