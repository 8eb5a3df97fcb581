//! Files: what `openat`, `fstat`, `getdents64`, `ppoll` and the like take and give.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "The current directory" as a directory descriptor.
pub const AT_FDCWD: i32 = -100;
/// Look at a symbolic link itself.
pub const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// An empty path means the descriptor itself.
pub const AT_EMPTY_PATH: u64 = 0x1000;

/// Longest path, with its final zero.
pub const PATH_MAX: usize = 4096;
/// Longest name in a path.
pub const NAME_MAX: usize = 255;
/// Most parts of one `readv` or `writev`.
pub const IOV_MAX: usize = 1024;
/// Most bytes that one `read` or `write` moves.
pub const RW_MAX: u64 = 0x7fff_f000;

bitflags! {
    /// Flags of `openat`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OpenFlags: u32 {
        /// For writing only.
        const WRITE_ONLY = 0o1;
        /// For reading and writing.
        const READ_WRITE = 0o2;
        /// Make it if it is not there.
        const CREATE = 0o100;
        /// Fail if it is there.
        const EXCLUSIVE = 0o200;
        /// Make it empty.
        const TRUNCATE = 0o1000;
        /// Write at the end.
        const APPEND = 0o2000;
        /// Do not wait.
        const NONBLOCK = 0o4000;
        /// Only a directory will do (arm64's value).
        const DIRECTORY = 0o40000;
        /// Not through a symbolic link at the end (arm64's value).
        const NOFOLLOW = 0o100000;
        /// Closed by `execve`.
        const CLOEXEC = 0o2000000;
    }
}

/// `st_mode`: the bits that say what kind of file it is.
pub const S_IFMT: u32 = 0o170000;
/// A directory.
pub const S_IFDIR: u32 = 0o040000;
/// A character device.
pub const S_IFCHR: u32 = 0o020000;
/// A regular file.
pub const S_IFREG: u32 = 0o100000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120000;

/// Offset from the start.
pub const SEEK_SET: u64 = 0;
/// Offset from the current position.
pub const SEEK_CUR: u64 = 1;
/// Offset from the end.
pub const SEEK_END: u64 = 2;

/// `fcntl`: a copy of the descriptor.
pub const F_DUPFD: u64 = 0;
/// `fcntl`: the descriptor's flags.
pub const F_GETFD: u64 = 1;
/// `fcntl`: set them.
pub const F_SETFD: u64 = 2;
/// `fcntl`: the file's flags.
pub const F_GETFL: u64 = 3;
/// `fcntl`: set them.
pub const F_SETFL: u64 = 4;
/// `fcntl`: a copy that `execve` closes.
pub const F_DUPFD_CLOEXEC: u64 = 1030;
/// The one flag of a descriptor: `execve` closes it.
pub const FD_CLOEXEC: u64 = 1;

/// `struct stat` of arm64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stat {
    /// Which file system.
    pub dev: u64,
    /// Number of the file in it.
    pub ino: u64,
    /// Kind and permissions.
    pub mode: u32,
    /// Names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For a device: which.
    pub rdev: u64,
    /// Padding.
    pub gap_rdev: u64,
    /// Bytes.
    pub size: i64,
    /// Bytes that are good to move at a time.
    pub blksize: i32,
    /// Padding.
    pub gap_blksize: i32,
    /// Units of 512 bytes it takes.
    pub blocks: i64,
    /// Last read, seconds.
    pub atime: i64,
    /// Last read, nanoseconds.
    pub atime_nsec: u64,
    /// Last write, seconds.
    pub mtime: i64,
    /// Last write, nanoseconds.
    pub mtime_nsec: u64,
    /// Last change, seconds.
    pub ctime: i64,
    /// Last change, nanoseconds.
    pub ctime_nsec: u64,
    /// Unused.
    pub gap_end: [u32; 2],
}

/// The head of a `struct linux_dirent64`; the name and a zero follow, then padding to a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct DirentHead {
    /// Number of the file.
    pub ino: u64,
    /// Where the next entry starts, for `lseek`.
    pub off: i64,
    /// Bytes of this entry.
    pub reclen: u16,
    /// Kind of file (`DT_*`, the top of `st_mode`).
    pub kind: u8,
}

/// `struct iovec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoVec {
    /// First byte, in the program.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

bitflags! {
    /// Events of `ppoll`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PollEvents: i16 {
        /// There is something to read.
        const IN = 0x1;
        /// There is something urgent to read.
        const PRI = 0x2;
        /// There is room to write.
        const OUT = 0x4;
        /// An error; always reported.
        const ERR = 0x8;
        /// The other side hung up; always reported.
        const HUP = 0x10;
        /// Not an open descriptor; always reported.
        const NVAL = 0x20;
    }
}

/// `struct pollfd`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFd {
    /// Which; a negative one is skipped.
    pub fd: i32,
    /// What is asked for ([`PollEvents`]).
    pub events: i16,
    /// What there is.
    pub revents: i16,
}

/// A device number as in `st_rdev` (Linux's `makedev`).
pub const fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (major & !0xfff) << 32 | (major & 0xfff) << 8 | (minor & !0xff) << 12 | minor & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_arm64_linux() {
        assert_eq!(size_of::<Stat>(), 128);
        assert_eq!((offset_of!(Stat, mode), offset_of!(Stat, rdev), offset_of!(Stat, size)), (16, 32, 48));
        assert_eq!((offset_of!(Stat, blocks), offset_of!(Stat, ctime_nsec)), (64, 112));
        assert_eq!((size_of::<DirentHead>(), size_of::<IoVec>(), size_of::<PollFd>()), (19, 16, 8));
    }

    #[test]
    fn device_numbers_are_those_of_makedev() {
        assert_eq!(device_number(5, 1), 0x501);
        assert_eq!(device_number(0x1234, 0x5678), 0x1000_0562_3478);
    }
}
