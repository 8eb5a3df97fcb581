//! Processes and threads.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Flags of `clone` (`CLONE_*`); the low byte is the exit signal, 0 for threads.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CloneFlags: u32 {
        /// Shares the address space.
        const VM = 0x100;
        /// Shares the current directory.
        const FS = 0x200;
        /// Shares the descriptor table.
        const FILES = 0x400;
        /// Shares the signal handlers.
        const SIGHAND = 0x800;
        /// A thread of the same process.
        const THREAD = 0x1_0000;
        /// Shares System V semaphore adjustments; there are none.
        const SYSVSEM = 0x4_0000;
        /// Sets TPIDR_EL0 to the `tls` argument.
        const SETTLS = 0x8_0000;
        /// Stores the thread ID at `parent_tid`.
        const PARENT_SETTID = 0x10_0000;
        /// On thread exit, clears `child_tid` and performs a futex wake there.
        const CHILD_CLEARTID = 0x20_0000;
        /// Ignored, as in Linux.
        const DETACHED = 0x40_0000;
        /// Stores the thread ID at `child_tid`.
        const CHILD_SETTID = 0x100_0000;
    }
}

/// `prlimit64`: stack size in bytes.
pub const RLIMIT_STACK: u64 = 3;
/// `prlimit64`: number of open files.
pub const RLIMIT_NOFILE: u64 = 7;
/// `prlimit64`: number of resources.
pub const RLIM_NLIMITS: u64 = 16;
/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct rlimit64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RLimit {
    /// The soft limit.
    pub current: u64,
    /// The hard limit.
    pub maximum: u64,
}

/// A string of [`UtsName`], zero-padded.
pub type UtsText = [u8; 65];

/// `struct new_utsname`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UtsName {
    /// Operating system name.
    pub sysname: UtsText,
    /// Host name.
    pub nodename: UtsText,
    /// Kernel release; C libraries check it against their minimum.
    pub release: UtsText,
    /// Kernel version and build.
    pub version: UtsText,
    /// Architecture.
    pub machine: UtsText,
    /// NIS domain name.
    pub domainname: UtsText,
}

/// Converts a string for [`UtsName`]; truncates it if necessary.
pub const fn uts_text(text: &str) -> UtsText {
    let (mut field, bytes) = ([0; 65], text.as_bytes());
    let mut at = 0;
    while at < bytes.len() && at < field.len() - 1 {
        field[at] = bytes[at];
        at += 1;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uts_strings_are_truncated_and_zero_terminated() {
        assert_eq!(&uts_text("Linux")[..6], b"Linux\0");
        let long = "x".repeat(100);
        assert_eq!(uts_text(&long)[63..], [b'x', 0]);
        assert_eq!(size_of::<UtsName>(), 390);
    }
}
