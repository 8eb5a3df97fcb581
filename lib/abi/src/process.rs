//! Processes and threads.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Flags of `clone`; the low byte is the signal for the parent, 0 for threads.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CloneFlags: u32 {
        /// The same address space.
        const VM = 0x100;
        /// The same current directory.
        const FS = 0x200;
        /// The same descriptors.
        const FILES = 0x400;
        /// The same signal handlers.
        const SIGHAND = 0x800;
        /// The same process.
        const THREAD = 0x1_0000;
        /// The same System V semaphore adjustments; there are none.
        const SYSVSEM = 0x4_0000;
        /// TPIDR_EL0 from the `tls` argument.
        const SETTLS = 0x8_0000;
        /// The thread's number goes to `parent_tid`.
        const PARENT_SETTID = 0x10_0000;
        /// At its end: zero to `child_tid`, and a futex wake there.
        const CHILD_CLEARTID = 0x20_0000;
        /// Ignored, as in Linux.
        const DETACHED = 0x40_0000;
        /// The thread's number goes to `child_tid`.
        const CHILD_SETTID = 0x100_0000;
    }
}

/// `prlimit64`: bytes of stack.
pub const RLIMIT_STACK: u64 = 3;
/// `prlimit64`: open files.
pub const RLIMIT_NOFILE: u64 = 7;
/// `prlimit64`: one more than the last resource there is.
pub const RLIM_NLIMITS: u64 = 16;
/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct rlimit64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RLimit {
    /// The limit in force.
    pub current: u64,
    /// How far the program may raise it.
    pub maximum: u64,
}

/// One text of [`UtsName`], filled up with zeroes.
pub type UtsText = [u8; 65];

/// `struct new_utsname`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UtsName {
    /// The system.
    pub sysname: UtsText,
    /// The machine's name.
    pub nodename: UtsText,
    /// The version, which C libraries compare with what they need.
    pub release: UtsText,
    /// More about the version.
    pub version: UtsText,
    /// The architecture.
    pub machine: UtsText,
    /// The NIS domain.
    pub domainname: UtsText,
}

/// A text for [`UtsName`], cut off where it does not fit.
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
    fn texts_end_with_zero() {
        assert_eq!(&uts_text("Linux")[..6], b"Linux\0");
        let long = "x".repeat(100);
        assert_eq!(uts_text(&long)[63..], [b'x', 0]);
        assert_eq!(size_of::<UtsName>(), 390);
    }
}
