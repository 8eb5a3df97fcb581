//! Access to user memory with the permissions of EL0.
//!
//! A user address is not validated: every access may fault, and reports the fault as an error. Requires that
//! the kernel's `handle_sync` calls [`fixup`].

use addr::UserVa;

/// EL0 has no access to the user address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

/// Copies user memory at `from` to `to`. Returns the number of bytes not copied; these bytes at the end of
/// `to` are unchanged.
pub fn copy_from_user(to: &mut [u8], from: UserVa) -> usize {
    target::copy_from(to, from.raw())
}

/// Copies `from` to user memory at `to`. Returns the number of bytes not copied, at the end of `from`.
pub fn copy_to_user(to: UserVa, from: &[u8]) -> usize {
    target::copy_to(to.raw(), from)
}

/// Loads the 32-bit word at `from` in a single access, as a futex comparison requires.
pub fn load_u32(from: UserVa) -> Result<u32, UserFault> {
    target::load_u32(from.raw())
}

/// The result of [`compare_exchange_u32`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompareExchange {
    /// The word was the expected one, and is replaced.
    Exchanged,
    /// The word is another one.
    Differs(u32),
    /// Another observer accessed the word; the caller repeats the operation.
    Contended,
}

/// Replaces the aligned 32-bit word at `at` by `new` if it is `expected`, atomically towards the program.
pub fn compare_exchange_u32(at: UserVa, expected: u32, new: u32) -> Result<CompareExchange, UserFault> {
    target::compare_exchange_u32(at.raw(), expected, new)
}

#[cfg(target_os = "none")]
mod target {
    use super::{CompareExchange, UserFault};
    use crate::cpu::CpuFeatures;
    use crate::exception::{Syndrome, TrapFrame};

    core::arch::global_asm!(include_str!("user_copy.s"), options(raw));

    unsafe extern "C" {
        fn user_copy_from(to: *mut u8, from: u64, bytes: usize) -> usize;
        fn user_copy_to(to: u64, from: *const u8, bytes: usize) -> usize;
        fn user_load_32(from: u64) -> i64;
        fn user_compare_exchange_32(at: u64, expected: u32, new: u32, has_pan: bool) -> i64;

        static __fixups_start: Fixup;
        static __fixups_end: Fixup;
    }

    /// An entry of .fixups (user_copy.s).
    #[repr(C)]
    struct Fixup {
        first: u64,
        end: u64,
        target: u64,
    }

    fn fixups() -> &'static [Fixup] {
        let (start, end) = (&raw const __fixups_start, &raw const __fixups_end);
        // SAFETY: the section between the two symbols consists of whole entries, in read-only data.
        unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }

    /// Resumes at the fixup of the faulting instruction: an access to user memory or a probe of this crate,
    /// which then returns its error. `false` if the instruction has none. To be called for synchronous
    /// exceptions from the kernel.
    pub fn fixup(frame: &mut TrapFrame) -> bool {
        if !matches!(frame.syndrome(), Syndrome::DataAbort { .. } | Syndrome::Undefined) {
            return false;
        }
        let found = fixups().iter().find(|entry| (entry.first..entry.end).contains(&frame.elr()));
        found.inspect(|entry| frame.resume_at(entry.target)).is_some()
    }

    pub(super) fn copy_from(to: &mut [u8], from: u64) -> usize {
        // SAFETY: writes at most `to.len()` bytes of `to`; reads as EL0, where a fault ends the copy.
        unsafe { user_copy_from(to.as_mut_ptr(), from, to.len()) }
    }

    pub(super) fn copy_to(to: u64, from: &[u8]) -> usize {
        // SAFETY: reads at most `from.len()` bytes of `from`; writes as EL0, which cannot access kernel
        // memory.
        unsafe { user_copy_to(to, from.as_ptr(), from.len()) }
    }

    pub(super) fn load_u32(from: u64) -> Result<u32, UserFault> {
        // SAFETY: reads as EL0.
        let value = unsafe { user_load_32(from) };
        u32::try_from(value).map_err(|_| UserFault)
    }

    pub(super) fn compare_exchange_u32(
        at: u64,
        expected: u32,
        new: u32,
    ) -> Result<CompareExchange, UserFault> {
        const CONTENDED: i64 = -2;
        let has_pan = crate::cpu::features().contains(CpuFeatures::PAN);
        // SAFETY: the address is a user address, by the caller's type, and translated by the user's tables;
        // EL1 has no more write permission there than EL0.
        match unsafe { user_compare_exchange_32(at, expected, new, has_pan) } {
            CONTENDED => Ok(CompareExchange::Contended),
            old => match u32::try_from(old).map_err(|_| UserFault)? {
                old if old == expected => Ok(CompareExchange::Exchanged),
                old => Ok(CompareExchange::Differs(old)),
            },
        }
    }
}

/// User memory of a host is set by [`fake::set_user_memory`](crate::fake::set_user_memory), or translated as
/// [`fake::map_user_memory`](crate::fake::map_user_memory) says.
#[cfg(not(target_os = "none"))]
mod target {
    use super::{CompareExchange, UserFault};
    use crate::exception::TrapFrame;
    use crate::fake::{self, UserAccess};

    /// Always `false`: a host takes no exceptions.
    pub fn fixup(_: &mut TrapFrame) -> bool {
        false
    }

    pub(super) fn copy_from(to: &mut [u8], from: u64) -> usize {
        each_part(to.len(), from, UserAccess::Read, |done, memory| {
            to[done..][..memory.len()].copy_from_slice(memory);
        })
    }

    pub(super) fn copy_to(to: u64, from: &[u8]) -> usize {
        each_part(from.len(), to, UserAccess::Write, |done, memory| {
            memory.copy_from_slice(&from[done..][..memory.len()]);
        })
    }

    /// Calls `copy` with the parts of the `len` bytes at `at` that are contiguous on the host, up to the
    /// first fault, and with the number of bytes before each. Returns the number of bytes that remain.
    fn each_part(len: usize, at: u64, access: UserAccess, mut copy: impl FnMut(usize, &mut [u8])) -> usize {
        let mut done = 0;
        while done < len {
            let bytes = fake::with_user_memory(at.wrapping_add(done as u64), access, |memory| {
                let bytes = memory.len().min(len - done);
                copy(done, &mut memory[..bytes]);
                bytes
            });
            if bytes == 0 {
                break;
            }
            done += bytes;
        }
        len - done
    }

    pub(super) fn load_u32(from: u64) -> Result<u32, UserFault> {
        let mut word = [0; 4];
        if copy_from(&mut word, from) == 0 { Ok(u32::from_le_bytes(word)) } else { Err(UserFault) }
    }

    pub(super) fn compare_exchange_u32(
        at: u64,
        expected: u32,
        new: u32,
    ) -> Result<CompareExchange, UserFault> {
        match load_u32(at)? {
            old if old != expected => Ok(CompareExchange::Differs(old)),
            _ if copy_to(at, &new.to_le_bytes()) == 0 => Ok(CompareExchange::Exchanged),
            _ => Err(UserFault),
        }
    }
}

pub use target::fixup;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn copies_stop_at_the_end_of_user_memory() {
        fake::set_user_memory(UserVa::new(0x1000), b"hello\0world");
        let mut buffer = [0xff; 16];
        assert_eq!(copy_from_user(&mut buffer, UserVa::new(0x1006)), 11);
        assert_eq!(&buffer[..6], b"world\xff");
        assert_eq!(copy_to_user(UserVa::new(0x100a), b"xyz"), 2);
        assert_eq!(copy_from_user(&mut buffer, UserVa::new(0xfff)), 16);
    }

    #[test]
    fn word_is_exchanged_only_if_it_is_the_expected_one() {
        let at = UserVa::new(0x1000);
        fake::set_user_memory(at, &7u32.to_le_bytes());
        assert_eq!(compare_exchange_u32(at, 8, 9), Ok(CompareExchange::Differs(7)));
        assert_eq!(compare_exchange_u32(at, 7, 9), Ok(CompareExchange::Exchanged));
        assert_eq!(load_u32(at), Ok(9));
        assert_eq!(compare_exchange_u32(UserVa::new(0x1004), 0, 1), Err(UserFault));
    }

    #[test]
    fn word_load_is_complete_or_fails() {
        fake::set_user_memory(UserVa::new(0x1000), &[0, 0, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(load_u32(UserVa::new(0x1002)), Ok(0x1234_5678));
        assert_eq!(load_u32(UserVa::new(0x1003)), Err(UserFault));
    }
}
