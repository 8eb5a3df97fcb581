//! Bytes between the kernel and the installed program, with the program's own permissions.
//!
//! A program's address is only an address: every access here may fault, and then says so. That works because the
//! kernel's `handle_sync` asks [`fixup`] first.

use addr::UserVa;

/// The program may not access what it named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

/// Copies from the program's `from` into `to`. Returns how many bytes at the end of `to` were not copied, and
/// are as before.
pub fn copy_from_user(to: &mut [u8], from: UserVa) -> usize {
    target::copy_from(to, from.raw())
}

/// Copies `from` to the program's `to`. Returns how many bytes at the end of `from` were not copied.
pub fn copy_to_user(to: UserVa, from: &[u8]) -> usize {
    target::copy_to(to.raw(), from)
}

/// The 32-bit word at `from`, in one access: what a futex compares.
pub fn load_u32(from: UserVa) -> Result<u32, UserFault> {
    target::load_u32(from.raw())
}

#[cfg(target_os = "none")]
mod target {
    use super::UserFault;
    use crate::exception::{Syndrome, TrapFrame};

    core::arch::global_asm!(include_str!("user_copy.s"), options(raw));

    unsafe extern "C" {
        fn user_copy_from(to: *mut u8, from: u64, bytes: usize) -> usize;
        fn user_copy_to(to: u64, from: *const u8, bytes: usize) -> usize;
        fn user_load_32(from: u64) -> i64;

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
        // SAFETY: the linker puts whole entries, and nothing else, between the two symbols, in read-only data.
        unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }

    /// Whether `frame` is an exception that its instruction is allowed to cause: a data abort of an access to a program's
    /// memory, or a probe of this crate. The function then returns its error. For synchronous exceptions from the
    /// kernel.
    pub fn fixup(frame: &mut TrapFrame) -> bool {
        if !matches!(frame.syndrome(), Syndrome::DataAbort { .. } | Syndrome::Undefined) {
            return false;
        }
        let found = fixups().iter().find(|entry| (entry.first..entry.end).contains(&frame.elr));
        found.inspect(|entry| frame.elr = entry.target).is_some()
    }

    pub(super) fn copy_from(to: &mut [u8], from: u64) -> usize {
        // SAFETY: writes at most `to`'s bytes; reads as EL0, where a fault ends the copy.
        unsafe { user_copy_from(to.as_mut_ptr(), from, to.len()) }
    }

    pub(super) fn copy_to(to: u64, from: &[u8]) -> usize {
        // SAFETY: reads at most `from`'s bytes; writes as EL0, which reaches none of the kernel's memory.
        unsafe { user_copy_to(to, from.as_ptr(), from.len()) }
    }

    pub(super) fn load_u32(from: u64) -> Result<u32, UserFault> {
        // SAFETY: reads as EL0.
        let value = unsafe { user_load_32(from) };
        u32::try_from(value).map_err(|_| UserFault)
    }
}

/// A host's program has the memory that [`fake::set_user_memory`](crate::fake::set_user_memory) gave it.
#[cfg(not(target_os = "none"))]
mod target {
    use super::UserFault;
    use crate::exception::TrapFrame;
    use crate::fake;

    /// A host takes no exceptions.
    pub fn fixup(_: &mut TrapFrame) -> bool {
        false
    }

    pub(super) fn copy_from(to: &mut [u8], from: u64) -> usize {
        fake::with_user_memory(from, |memory| {
            let bytes = memory.len().min(to.len());
            to[..bytes].copy_from_slice(&memory[..bytes]);
            to.len() - bytes
        })
    }

    pub(super) fn copy_to(to: u64, from: &[u8]) -> usize {
        fake::with_user_memory(to, |memory| {
            let bytes = memory.len().min(from.len());
            memory[..bytes].copy_from_slice(&from[..bytes]);
            from.len() - bytes
        })
    }

    pub(super) fn load_u32(from: u64) -> Result<u32, UserFault> {
        let mut word = [0; 4];
        if copy_from(&mut word, from) == 0 { Ok(u32::from_le_bytes(word)) } else { Err(UserFault) }
    }
}

pub use target::fixup;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn copies_stop_where_the_memory_ends() {
        fake::set_user_memory(UserVa::new(0x1000), b"hello\0world");
        let mut buffer = [0xff; 16];
        assert_eq!(copy_from_user(&mut buffer, UserVa::new(0x1006)), 11);
        assert_eq!(&buffer[..6], b"world\xff");
        assert_eq!(copy_to_user(UserVa::new(0x100a), b"xyz"), 2);
        assert_eq!(copy_from_user(&mut buffer, UserVa::new(0xfff)), 16);
    }

    #[test]
    fn words_are_whole_or_not_at_all() {
        fake::set_user_memory(UserVa::new(0x1000), &[0, 0, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(load_u32(UserVa::new(0x1002)), Ok(0x1234_5678));
        assert_eq!(load_u32(UserVa::new(0x1003)), Err(UserFault));
    }
}
