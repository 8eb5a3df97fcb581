//! Ioctls of sync files (Linux `sync_file.h`).

use crate::{Ioctl, IoctlDirection};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The length of a name, including the terminating zero.
pub const SYNC_NAME_LEN: usize = 32;

/// `struct sync_merge_data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncMerge {
    /// In: the name of the new sync file.
    pub name: [u8; SYNC_NAME_LEN],
    /// In: the descriptor of the second sync file.
    pub fd2: i32,
    /// Out: the descriptor of the new sync file.
    pub fence: i32,
    /// In: must be 0.
    pub flags: u32,
    /// In: must be 0.
    pub pad: u32,
}

/// `struct sync_file_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncFileInfo {
    /// Out: the name.
    pub name: [u8; SYNC_NAME_LEN],
    /// Out: 0 while a fence is pending, 1 if all are signalled, or a negative error code.
    pub status: i32,
    /// In: must be 0.
    pub flags: u32,
    /// In: the capacity of the array, or 0 for the number only. Out: the number of fences.
    pub num_fences: u32,
    /// In: must be 0.
    pub pad: u32,
    /// In: the address of an array of [`SyncFenceInfo`].
    pub sync_fence_info: u64,
}

/// `struct sync_fence_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncFenceInfo {
    /// The timeline.
    pub obj_name: [u8; SYNC_NAME_LEN],
    /// The driver.
    pub driver_name: [u8; SYNC_NAME_LEN],
    /// As in [`SyncFileInfo`].
    pub status: i32,
    /// 0.
    pub flags: u32,
    /// The time of the signal on the monotonic clock; 0 while the fence is pending.
    pub timestamp_ns: u64,
}

/// `struct sync_set_deadline`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncDeadline {
    /// In: the time on the monotonic clock.
    pub deadline_ns: u64,
    /// In: must be 0.
    pub pad: u64,
}

/// Creates a sync file with the pending fences of two.
pub const SYNC_IOC_MERGE: Ioctl = Ioctl::new::<SyncMerge>(IoctlDirection::ReadWrite, b'>', 3);
/// Describes a sync file and its fences.
pub const SYNC_IOC_FILE_INFO: Ioctl = Ioctl::new::<SyncFileInfo>(IoctlDirection::ReadWrite, b'>', 4);
/// A hint until when the fences should be signalled.
pub const SYNC_IOC_SET_DEADLINE: Ioctl = Ioctl::new::<SyncDeadline>(IoctlDirection::Write, b'>', 5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_ioctl_numbers_match() {
        assert_eq!(SYNC_IOC_MERGE.raw(), 0xc030_3e03);
        assert_eq!(SYNC_IOC_FILE_INFO.raw(), 0xc038_3e04);
        assert_eq!(SYNC_IOC_SET_DEADLINE.raw(), 0x4010_3e05);
        assert_eq!(size_of::<SyncFenceInfo>(), 80);
    }
}
