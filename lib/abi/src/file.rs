//! File system calls: `openat`, `fstat`, `getdents64`, `ppoll` and related.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The current directory, as a directory descriptor.
pub const AT_FDCWD: i32 = -100;
/// `unlinkat`: remove a directory. `faccessat2`: check as the effective user (`AT_EACCESS`).
pub const AT_REMOVEDIR: u64 = 0x200;
/// Follow a trailing symbolic link, where this is not the default.
pub const AT_SYMLINK_FOLLOW: u64 = 0x400;
/// Do not mount at the end of the path: without effect, nothing is mounted on demand.
pub const AT_NO_AUTOMOUNT: u64 = 0x800;
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
        /// `__O_TMPFILE`; `O_TMPFILE` is this and `O_DIRECTORY`.
        const TEMPORARY = 0o20000000;
        /// `O_PATH`.
        const PATH = 0o10000000;
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
/// A socket.
pub const S_IFSOCK: u32 = 0o140000;
/// A block device.
pub const S_IFBLK: u32 = 0o060000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120000;

/// `lseek`: offset from the start.
pub const SEEK_SET: u64 = 0;
/// `lseek`: offset from the current position.
pub const SEEK_CUR: u64 = 1;
/// `lseek`: offset from the end.
pub const SEEK_END: u64 = 2;

/// `lseek`: the next data at or after the offset.
pub const SEEK_DATA: u64 = 3;
/// `lseek`: the next hole at or after the offset.
pub const SEEK_HOLE: u64 = 4;

bitflags! {
    /// Modes of `fallocate`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AllocateMode: u32 {
        /// `FALLOC_FL_KEEP_SIZE`.
        const KEEP_SIZE = 0x1;
        /// `FALLOC_FL_PUNCH_HOLE`.
        const PUNCH_HOLE = 0x2;
    }
}

bitflags! {
    /// Seals of a memory file (`F_SEAL_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Seals: u32 {
        /// No more seals.
        const SEAL = 0x1;
        /// The file does not shrink.
        const SHRINK = 0x2;
        /// The file does not grow.
        const GROW = 0x4;
        /// The file is not written.
        const WRITE = 0x8;
        /// The file is not written, except by existing mappings.
        const FUTURE_WRITE = 0x10;
    }
}

bitflags! {
    /// Flags of `memfd_create` (`MFD_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MemfdFlags: u32 {
        /// Closed by `execve`.
        const CLOEXEC = 0x1;
        /// The file can be sealed.
        const ALLOW_SEALING = 0x2;
    }
}

/// `renameat2`: the new name must not exist.
pub const RENAME_NOREPLACE: u64 = 1;

/// `utimensat`: the current time.
pub const UTIME_NOW: i64 = 0x3fff_ffff;
/// `utimensat`: no change.
pub const UTIME_OMIT: i64 = 0x3fff_fffe;

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
/// `fcntl`: add seals.
pub const F_ADD_SEALS: u64 = 1033;
/// `fcntl`: get the seals.
pub const F_GET_SEALS: u64 = 1034;
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

/// `struct statx_timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTime {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
    /// Padding.
    pub gap: u32,
}

/// The fields of [`Statx`] that every file has (`STATX_BASIC_STATS`).
pub const STATX_BASIC_STATS: u32 = 0x7ff;
/// A bit of the mask that must be 0.
pub const STATX_RESERVED: u32 = 0x8000_0000;
/// How attributes of a remote file are updated: two bits, not both.
pub const AT_STATX_SYNC_TYPE: u64 = 0x6000;

/// `struct statx`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// The valid fields.
    pub mask: u32,
    /// Preferred I/O block size.
    pub blksize: u32,
    /// Attributes (`STATX_ATTR_*`).
    pub attributes: u64,
    /// Number of hard links.
    pub nlink: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID of the owner.
    pub gid: u32,
    /// File type and permissions.
    pub mode: u16,
    /// Padding.
    pub gap_mode: u16,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// The attributes that are known.
    pub attributes_mask: u64,
    /// Access time.
    pub atime: StatxTime,
    /// Creation time; not set.
    pub btime: StatxTime,
    /// Status change time.
    pub ctime: StatxTime,
    /// Modification time.
    pub mtime: StatxTime,
    /// Device number, for a device node.
    pub rdev: [u32; 2],
    /// Device number of the file system.
    pub dev: [u32; 2],
    /// Fields that are not set.
    pub rest: [u64; 14],
}

impl From<Stat> for Statx {
    fn from(stat: Stat) -> Self {
        let time = |seconds, nanoseconds: u64| StatxTime { seconds, nanoseconds: nanoseconds as u32, gap: 0 };
        let device = |number: u64| {
            [
                (number >> 8 & 0xfff | number >> 32 & !0xfff) as u32,
                (number & 0xff | number >> 12 & !0xff) as u32,
            ]
        };
        Self {
            mask: STATX_BASIC_STATS,
            blksize: stat.blksize as u32,
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            mode: stat.mode as u16,
            ino: stat.ino,
            size: stat.size as u64,
            blocks: stat.blocks as u64,
            atime: time(stat.atime, stat.atime_nsec),
            ctime: time(stat.ctime, stat.ctime_nsec),
            mtime: time(stat.mtime, stat.mtime_nsec),
            rdev: device(stat.rdev),
            dev: device(stat.dev),
            ..Self::default()
        }
    }
}

/// `f_type` of a tmpfs.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `f_type` of files that were not opened by a path.
pub const ANON_INODE_MAGIC: u64 = 0x0904_1934;
/// `f_flags`: the other flags are valid; read-only; access times are not updated.
pub const ST_VALID: u64 = 0x20;
/// Read-only.
pub const ST_RDONLY: u64 = 0x1;
/// Reads do not update access times.
pub const ST_NOATIME: u64 = 0x400;

/// `struct statfs` of arm64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatFs {
    /// The file system's magic number.
    pub kind: u64,
    /// Block size.
    pub bsize: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for users.
    pub bavail: u64,
    /// Number of nodes.
    pub files: u64,
    /// Free nodes.
    pub ffree: u64,
    /// File system ID.
    pub fsid: [u32; 2],
    /// Maximum length of a name.
    pub namelen: u64,
    /// Fragment size.
    pub frsize: u64,
    /// Mount flags (`ST_*`).
    pub flags: u64,
    /// Unused.
    pub spare: [u64; 4],
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
        assert_eq!((size_of::<Statx>(), size_of::<StatFs>()), (256, 120));
        assert_eq!(
            (offset_of!(Statx, atime), offset_of!(Statx, rdev), offset_of!(Statx, rest)),
            (64, 128, 144)
        );
        assert_eq!((size_of::<DirentHead>(), size_of::<IoVec>(), size_of::<PollFd>()), (19, 16, 8));
    }

    #[test]
    fn device_number_matches_makedev() {
        assert_eq!(device_number(5, 1), 0x501);
        assert_eq!(device_number(0x1234, 0x5678), 0x1000_0562_3478);
    }
}
