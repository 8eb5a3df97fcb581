//! Bytes between the kernel and the program that runs: the only way to touch a program's memory.
//!
//! Every address is checked by making the access with the program's own rights (`arch::user_copy`). One that fails is
//! brought in if it is memory that nobody has touched yet, else it is `EFAULT`. No lock may be held.

use super::address_space::AddressSpace;
use abi::Errno;
use abi::memory::Prot;
use addr::{Address, UserVa};
use alloc::vec::Vec;
use arch::user_copy;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The widest single access of a copy: a failed one may lie this far behind what was copied.
const MAX_ACCESS_BYTES: u64 = 16;

/// The memory of the program that this CPU has installed.
#[derive(Clone, Copy)]
pub struct UserMemory<'a> {
    space: &'a AddressSpace,
}

impl<'a> UserMemory<'a> {
    /// `space` is installed on this CPU: it is that of the running thread.
    pub fn new(space: &'a AddressSpace) -> Self {
        Self { space }
    }

    /// Fills `to` from the program's bytes at `from`.
    pub fn read_bytes(&self, from: UserVa, to: &mut [u8]) -> Result<(), Errno> {
        self.copy(from, to.len(), Prot::READ, |done| {
            user_copy::copy_from_user(&mut to[done..], from + done as u64)
        })
    }

    /// Copies `from` to the program's `to`.
    pub fn write_bytes(&self, to: UserVa, from: &[u8]) -> Result<(), Errno> {
        self.copy(to, from.len(), Prot::WRITE, |done| {
            user_copy::copy_to_user(to + done as u64, &from[done..])
        })
    }

    /// The structure at `from`.
    pub fn read<T: FromBytes + IntoBytes>(&self, from: UserVa) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Puts a structure to `to`.
    pub fn write<T: IntoBytes + Immutable>(&self, to: UserVa, value: &T) -> Result<(), Errno> {
        self.write_bytes(to, value.as_bytes())
    }

    /// Puts a structure to `to`, unless that is 0.
    pub fn write_optional<T: IntoBytes + Immutable>(&self, to: UserVa, value: &T) -> Result<(), Errno> {
        if to.raw() == 0 { Ok(()) } else { self.write(to, value) }
    }

    /// The text at `from` up to its final zero.
    ///
    /// # Errors
    /// `ENAMETOOLONG`: no zero among the first `limit` bytes.
    pub fn read_string(&self, from: UserVa, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut at = from;
        while text.len() < limit {
            let mut buffer = [0; 64];
            // Never over the end of a page: the next one may be nobody's.
            let here = (64 - at.raw() % 64).min((limit - text.len()) as u64) as usize;
            self.read_bytes(at, &mut buffer[..here])?;
            if let Some(end) = buffer[..here].iter().position(|&byte| byte == 0) {
                text.extend(&buffer[..end]);
                return Ok(text);
            }
            text.extend(&buffer[..here]);
            at = at.checked_add(here as u64).ok_or(Errno::EFAULT)?;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// The word at `from`, in one access that the program's own atomics see as one.
    pub fn load_u32(&self, from: UserVa) -> Result<u32, Errno> {
        self.check(from, 4)?;
        match user_copy::load_u32(from) {
            Ok(word) => Ok(word),
            Err(_) => {
                self.fault_in(from, Prot::READ)?;
                user_copy::load_u32(from).map_err(|_| Errno::EFAULT)
            }
        }
    }

    /// The word at `from`, if it is there: never waits or allocates, so a lock may be held.
    pub fn try_load_u32(&self, from: UserVa) -> Option<u32> {
        self.check(from, 4).ok()?;
        user_copy::load_u32(from).ok()
    }

    /// Runs `step` with how much is done, until it leaves nothing. `step` returns what it left.
    fn copy(
        &self,
        at: UserVa,
        len: usize,
        access: Prot,
        mut step: impl FnMut(usize) -> usize,
    ) -> Result<(), Errno> {
        self.check(at, len)?;
        let (mut done, mut last_fault) = (0, None);
        while done < len {
            done = len - step(done);
            if done == len {
                break;
            }
            if last_fault == Some(done) {
                return Err(Errno::EFAULT);
            }
            last_fault = Some(done);
            let first = at + done as u64;
            let last = at + (len - 1) as u64;
            self.fault_in(first, access)?;
            self.fault_in((first + (MAX_ACCESS_BYTES - 1)).min(last), access)?;
        }
        Ok(())
    }

    fn fault_in(&self, at: UserVa, access: Prot) -> Result<(), Errno> {
        self.space.handle_fault(at, access).map_err(|_| Errno::EFAULT)
    }

    fn check(&self, at: UserVa, len: usize) -> Result<(), Errno> {
        let end = at.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end.raw() > program::USER_END { Err(Errno::EFAULT) } else { Ok(()) }
    }
}
