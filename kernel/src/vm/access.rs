//! User copies: the only access of the kernel to the memory of the running program.
//!
//! Accesses are unprivileged (`arch::user_copy`), so the MMU checks the program's own permissions. A failed
//! access is handled like a page fault of the program (demand paging), and returns `EFAULT` if that does not
//! resolve it. No lock may be held.

use super::address_space::AddressSpace;
use crate::sched;
use abi::Errno;
use abi::memory::Prot;
use addr::{Address, UserVa};
use alloc::vec::Vec;
use arch::user_copy::{self, CompareExchange};
use core::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The memory of the program whose address space is installed on this CPU.
#[derive(Clone, Copy)]
pub struct UserMemory<'a> {
    space: &'a AddressSpace,
}

impl<'a> UserMemory<'a> {
    /// `space` must be installed on this CPU: it is the address space of the running thread.
    pub fn new(space: &'a AddressSpace) -> Self {
        Self { space }
    }

    /// Copies from the program's memory at `from` to `to`.
    pub fn read_bytes(&self, from: UserVa, to: &mut [u8]) -> Result<(), Errno> {
        self.copy(from, to.len(), Prot::READ, |part| {
            user_copy::copy_from_user(&mut to[part.clone()], from + part.start as u64)
        })
    }

    /// Copies `from` to the program's memory at `to`.
    pub fn write_bytes(&self, to: UserVa, from: &[u8]) -> Result<(), Errno> {
        self.copy(to, from.len(), Prot::WRITE, |part| {
            user_copy::copy_to_user(to + part.start as u64, &from[part])
        })
    }

    /// Writes `len` bytes at `to`, which `generate` stores piece by piece in a buffer that is zero initially.
    /// Returns the number of bytes, which is less if a signal arrives, or at an address that cannot be
    /// written.
    ///
    /// # Errors
    /// `EFAULT` without a byte.
    pub fn write_generated(
        &self,
        to: UserVa,
        len: usize,
        mut generate: impl FnMut(&mut [u8]),
    ) -> Result<usize, Errno> {
        let mut buffer = [0; 1024];
        let mut done = 0;
        while done < len && (done == 0 || !sched::has_requests()) {
            let piece = &mut buffer[..(len - done).min(1024)];
            generate(piece);
            match self.write_bytes(to + done as u64, piece) {
                Ok(()) => done += piece.len(),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            sched::yield_if_slice_ended();
        }
        Ok(done)
    }

    /// Reads a structure at `from`.
    pub fn read<T: FromBytes + IntoBytes>(&self, from: UserVa) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a structure to `to`.
    pub fn write<T: IntoBytes + Immutable>(&self, to: UserVa, value: &T) -> Result<(), Errno> {
        self.write_bytes(to, value.as_bytes())
    }

    /// Reads the first `len` bytes of a structure at `from`, or all if it is smaller; the others are zero.
    pub fn read_prefix<T: FromBytes + IntoBytes>(&self, from: UserVa, len: usize) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(from, &mut value.as_mut_bytes()[..len.min(size_of::<T>())])?;
        Ok(value)
    }

    /// Writes the first `len` bytes of a structure to `to`, or all if it is smaller.
    pub fn write_prefix<T: IntoBytes + Immutable>(
        &self,
        to: UserVa,
        value: &T,
        len: usize,
    ) -> Result<(), Errno> {
        self.write_bytes(to, &value.as_bytes()[..len.min(size_of::<T>())])
    }

    /// Writes a structure to `to`, unless `to` is a null pointer.
    pub fn write_optional<T: IntoBytes + Immutable>(&self, to: UserVa, value: &T) -> Result<(), Errno> {
        if to.raw() == 0 { Ok(()) } else { self.write(to, value) }
    }

    /// Reads the null-terminated string at `from`, without the terminator.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`, or `ENAMETOOLONG` without a terminator in the first `limit` bytes.
    pub fn read_string(&self, from: UserVa, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut at = from;
        while text.len() < limit {
            let mut buffer = [0; 64];
            // Does not cross a page boundary: the next page may be unmapped.
            let here = (64 - at.raw() % 64).min((limit - text.len()) as u64) as usize;
            self.read_bytes(at, &mut buffer[..here])?;
            if let Some(end) = buffer[..here].iter().position(|&byte| byte == 0) {
                text.try_reserve(end).map_err(|_| Errno::ENOMEM)?;
                text.extend(&buffer[..end]);
                return Ok(text);
            }
            text.try_reserve(here).map_err(|_| Errno::ENOMEM)?;
            text.extend(&buffer[..here]);
            at = at.checked_add(here as u64).ok_or(Errno::EFAULT)?;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads the word at `from` in one access, single-copy atomic with respect to the program's atomics.
    pub fn load_u32(&self, from: UserVa) -> Result<u32, Errno> {
        self.check(from, 4)?;
        match user_copy::load_u32(from) {
            Ok(word) => Ok(word),
            Err(_) => {
                let word = self.retry(from, Prot::READ, || user_copy::load_u32(from))?;
                word.map_err(|_| Errno::EFAULT)
            }
        }
    }

    /// Reads the word at `from` if its page is mapped. Handles no page fault, so a lock may be held.
    pub fn try_load_u32(&self, from: UserVa) -> Option<u32> {
        self.check(from, 4).ok()?;
        user_copy::load_u32(from).ok()
    }

    /// As [`compare_exchange_u32`](Self::compare_exchange_u32), once. `None` if the page is not mapped for
    /// writing. Handles no page fault, so a lock may be held.
    pub fn try_compare_exchange_u32(&self, at: UserVa, expected: u32, new: u32) -> Option<CompareExchange> {
        self.check(at, 4).ok()?;
        user_copy::compare_exchange_u32(at, expected, new).ok()
    }

    /// Replaces the aligned word at `at` by `new` if it is `expected`, atomically towards the program.
    /// Returns the old word.
    pub fn compare_exchange_u32(&self, at: UserVa, expected: u32, new: u32) -> Result<u32, Errno> {
        self.check(at, 4)?;
        loop {
            let attempt = || user_copy::compare_exchange_u32(at, expected, new);
            let result =
                attempt().or_else(|_| self.retry(at, Prot::WRITE, attempt)?.map_err(|_| Errno::EFAULT))?;
            match result {
                CompareExchange::Exchanged => return Ok(expected),
                CompareExchange::Differs(old) => return Ok(old),
                CompareExchange::Contended => sched::yield_now(),
            }
        }
    }

    /// Calls `step` until all `len` bytes at `at` are copied: it copies the given range of them and returns
    /// the number that remain of it. After an incomplete step, handles the page fault.
    ///
    /// The byte that faulted is copied with the address space locked. Without the lock another thread could
    /// break the entry again (break-before-make) any number of times; with it, a second fault is final.
    fn copy(
        &self,
        at: UserVa,
        len: usize,
        access: Prot,
        mut step: impl FnMut(Range<usize>) -> usize,
    ) -> Result<(), Errno> {
        self.check(at, len)?;
        let mut done = 0;
        loop {
            done = len - step(done..len);
            if done == len {
                return Ok(());
            }
            let left = self.retry(at + done as u64, access, || step(done..done + 1))?;
            if left > 0 {
                return Err(Errno::EFAULT);
            }
            done += 1;
        }
    }

    /// Handles a page fault at `at`, and repeats the access with the address space locked.
    fn retry<R>(&self, at: UserVa, access: Prot, repeat: impl FnOnce() -> R) -> Result<R, Errno> {
        self.space.handle_fault_then(at, access, repeat).map_err(|_| Errno::EFAULT)
    }

    fn check(&self, at: UserVa, len: usize) -> Result<(), Errno> {
        let end = at.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end.raw() > program::USER_END { Err(Errno::EFAULT) } else { Ok(()) }
    }
}
