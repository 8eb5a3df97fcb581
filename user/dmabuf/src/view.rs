//! Mapped memory that a device, or another program, may change at any moment.
//!
//! Hence no slices: every access is a volatile copy of one word or byte, bounds checked.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// What a program may do with mapped memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protection {
    /// Look only.
    Read,
    /// Look and change.
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

/// A mapping of this program's own; unmapped when dropped.
#[derive(Debug)]
pub struct View {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the program, not to a thread, and all accesses are volatile copies.
unsafe impl Send for View {}
// SAFETY: as above; two threads that write one word get one of the two values, as with a device.
unsafe impl Sync for View {}

impl View {
    /// The first `len` bytes of a file, shared with whoever else has it.
    ///
    /// # Errors
    /// Whatever `mmap` answers.
    pub fn of_file(file: &impl AsFd, len: usize, protection: Protection) -> io::Result<Self> {
        Self::map(len, protection, libc::MAP_SHARED, file.as_fd().as_raw_fd())
    }

    /// `len` bytes of fresh memory of this program's own.
    ///
    /// # Errors
    /// Whatever `mmap` answers.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, Protection::ReadWrite, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn map(len: usize, protection: Protection, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED the kernel chooses a place where nothing is; the descriptor, if any, is borrowed by
        // the caller for this call, and the mapping needs it no longer.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection.bits(), flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { at, len })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// Its length in whole words of 8 bytes.
    pub fn words(&self) -> usize {
        self.len / 8
    }

    /// Where it is, for tests that do what they should not.
    pub fn pointer(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// The word at `index`.
    ///
    /// # Panics
    /// If it is outside.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        assert!(index < self.words(), "word {index} of {}", self.words());
        // SAFETY: inside by the assert; aligned, since a mapping starts at a page; volatile, since others may write.
        unsafe { self.at.cast::<u64>().add(index).read_volatile() }
    }

    /// Replaces the word at `index`.
    ///
    /// # Panics
    /// If it is outside.
    #[inline]
    pub fn set_word(&self, index: usize, value: u64) {
        assert!(index < self.words(), "word {index} of {}", self.words());
        // SAFETY: inside by the assert; aligned, since a mapping starts at a page; volatile, since others may read.
        unsafe { self.at.cast::<u64>().add(index).write_volatile(value) }
    }

    /// The byte at `index`.
    ///
    /// # Panics
    /// If it is outside.
    pub fn byte(&self, index: usize) -> u8 {
        assert!(index < self.len, "byte {index} of {}", self.len);
        // SAFETY: inside by the assert; volatile, since others may write.
        unsafe { self.at.add(index).read_volatile() }
    }

    /// Takes whole pages out of the mapping; they must not be used through this view any more.
    ///
    /// # Errors
    /// Whatever `munmap` answers.
    ///
    /// # Safety
    /// The caller touches no word or byte inside `from..from + len` afterwards, unless to see the fault.
    pub unsafe fn unmap_part(&self, from: usize, len: usize) -> io::Result<()> {
        assert!(from + len <= self.len, "bytes {from}+{len} of {}", self.len);
        // SAFETY: inside our own mapping by the assert; the caller gives these pages up.
        let status = unsafe { libc::munmap(self.at.add(from).as_ptr().cast(), len) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Changes what this program may do with whole pages of it.
    ///
    /// # Errors
    /// Whatever `mprotect` answers.
    pub fn protect(&self, from: usize, len: usize, bits: i32) -> io::Result<()> {
        assert!(from + len <= self.len, "bytes {from}+{len} of {}", self.len);
        // SAFETY: inside our own mapping by the assert; a forbidden access then faults and ends the program, which is
        // what the caller asks for.
        let status = unsafe { libc::mprotect(self.at.add(from).as_ptr().cast(), len, bits) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrowed from it outlives us. It cannot fail for a range that was mapped.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_is_zero_and_keeps_what_is_written() {
        let view = View::anonymous(8192).unwrap();
        assert!((0..view.words()).all(|index| view.word(index) == 0));
        view.set_word(1023, 0x0102_0304_0506_0708);
        assert_eq!((view.word(1023), view.byte(8191), view.byte(8184)), (0x0102_0304_0506_0708, 1, 8));
    }

    #[test]
    #[should_panic(expected = "word 1024 of 1024")]
    fn nothing_reaches_past_the_end() {
        View::anonymous(8192).unwrap().word(1024);
    }

    #[test]
    fn an_empty_mapping_is_refused() {
        assert_eq!(View::anonymous(0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
