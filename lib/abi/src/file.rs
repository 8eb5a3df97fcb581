//! File system calls: `openat`, `fstat`, `getdents64`, `ppoll` and related.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The current directory, as a directory descriptor.
pub const AT_FDCWD: i32 = -100;
/// Do not follow a trailing symbolic link.
pub const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// An empty path refers to the descriptor itself.
pub const AT_EMPTY_PATH: u64 = 0x1000;

/// Maximum length of a path, including the terminating zero.
pub const PATH_MAX: usize = 4096;
/// Maximum length of a name in a path.
pub const NAME_MAX: usize = 255;
/// Maximum number of segments of `readv` and `writev`.
pub const IOV_MAX: usize = 1024;
/// Maximum number of bytes of one `read` or `write`.
pub const RW_MAX: u64 = 0x7fff_f000;

bitflags! {
    /// Flags of `openat`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OpenFlags: u32 {
        /// `O_WRONLY`.
        const WRITE_ONLY = 0o1;
        /// `O_RDWR`.
        const READ_WRITE = 0o2;
        /// `O_CREAT`.
        const CREATE = 0o100;
        /// `O_EXCL`.
        const EXCLUSIVE = 0o200;
        /// `O_TRUNC`.
        const TRUNCATE = 0o1000;
        /// `O_APPEND`.
        const APPEND = 0o2000;
        /// `O_NONBLOCK`.
        const NONBLOCK = 0o4000;
        /// `O_DIRECTORY` (arm64's value).
        const DIRECTORY = 0o40000;
        /// `O_NOFOLLOW` (arm64's value).
        const NOFOLLOW = 0o100000;
        /// `O_CLOEXEC`.
        const CLOEXEC = 0o2000000;
    }
}

/// `st_mode`: mask of the file type.
pub const S_IFMT: u32 = 0o170000;
/// A directory.
pub const S_IFDIR: u32 = 0o040000;
/// A pipe.
pub const S_IFIFO: u32 = 0o010000;
/// A character device.
pub const S_IFCHR: u32 = 0o020000;
/// A regular file.
pub const S_IFREG: u32 = 0o100000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120000;

/// `lseek`: offset from the start.
pub const SEEK_SET: u64 = 0;
/// `lseek`: offset from the current position.
pub const SEEK_CUR: u64 = 1;
/// `lseek`: offset from the end.
pub const SEEK_END: u64 = 2;

/// `fcntl`: duplicate the descriptor.
pub const F_DUPFD: u64 = 0;
/// `fcntl`: get the descriptor flags.
pub const F_GETFD: u64 = 1;
/// `fcntl`: set the descriptor flags.
pub const F_SETFD: u64 = 2;
/// `fcntl`: get the file status flags.
pub const F_GETFL: u64 = 3;
/// `fcntl`: set the file status flags.
pub const F_SETFL: u64 = 4;
/// `fcntl`: duplicate the descriptor with `FD_CLOEXEC`.
pub const F_DUPFD_CLOEXEC: u64 = 1030;
/// `fcntl`: set the capacity of a pipe.
pub const F_SETPIPE_SZ: u64 = 1031;
/// `fcntl`: get the capacity of a pipe.
pub const F_GETPIPE_SZ: u64 = 1032;
/// Descriptor flag: closed by `execve`.
pub const FD_CLOEXEC: u64 = 1;

/// `ioctl`: set or clear `O_NONBLOCK`.
pub const FIONBIO: u32 = 0x5421;
/// `ioctl`: clear `FD_CLOEXEC`.
pub const FIONCLEX: u32 = 0x5450;
/// `ioctl`: set `FD_CLOEXEC`.
pub const FIOCLEX: u32 = 0x5451;

/// `struct stat` of arm64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stat {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// File type and permissions.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID of the owner.
    pub gid: u32,
    /// Device number, for a device node.
    pub rdev: u64,
    /// Padding.
    pub gap_rdev: u64,
    /// Size in bytes.
    pub size: i64,
    /// Preferred I/O block size.
    pub blksize: i32,
    /// Padding.
    pub gap_blksize: i32,
    /// Allocated 512-byte blocks.
    pub blocks: i64,
    /// Access time, seconds.
    pub atime: i64,
    /// Access time, nanoseconds.
    pub atime_nsec: u64,
    /// Modification time, seconds.
    pub mtime: i64,
    /// Modification time, nanoseconds.
    pub mtime_nsec: u64,
    /// Status change time, seconds.
    pub ctime: i64,
    /// Status change time, nanoseconds.
    pub ctime_nsec: u64,
    /// Unused.
    pub gap_end: [u32; 2],
}

/// The fixed part of `struct linux_dirent64`; followed by the zero-terminated name, padded to a multiple of
/// 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct DirentHead {
    /// Inode number.
    pub ino: u64,
    /// Offset of the next entry, for `lseek`.
    pub off: i64,
    /// Size of this entry in bytes.
    pub reclen: u16,
    /// File type (`DT_*`, the top bits of `st_mode`).
    pub kind: u8,
}

/// `struct iovec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoVec {
    /// User address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

bitflags! {
    /// Events of `ppoll` (`POLL*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PollEvents: i16 {
        /// Readable.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Writable.
        const OUT = 0x4;
        /// Error; always reported.
        const ERR = 0x8;
        /// Hang-up; always reported.
        const HUP = 0x10;
        /// Invalid descriptor; always reported.
        const NVAL = 0x20;
        /// Normal data is readable.
        const RDNORM = 0x40;
        /// Normal data is writable.
        const WRNORM = 0x100;
        /// The peer has shut down its writing half.
        const RDHUP = 0x2000;
    }
}

/// `struct pollfd`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFd {
    /// Descriptor; ignored if negative.
    pub fd: i32,
    /// Requested [`PollEvents`].
    pub events: i16,
    /// Returned [`PollEvents`].
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
    fn layouts_match_arm64_linux() {
        assert_eq!(size_of::<Stat>(), 128);
        assert_eq!((offset_of!(Stat, mode), offset_of!(Stat, rdev), offset_of!(Stat, size)), (16, 32, 48));
        assert_eq!((offset_of!(Stat, blocks), offset_of!(Stat, ctime_nsec)), (64, 112));
        assert_eq!((size_of::<DirentHead>(), size_of::<IoVec>(), size_of::<PollFd>()), (19, 16, 8));
    }

    #[test]
    fn device_number_matches_makedev() {
        assert_eq!(device_number(5, 1), 0x501);
        assert_eq!(device_number(0x1234, 0x5678), 0x1000_0562_3478);
    }
}
