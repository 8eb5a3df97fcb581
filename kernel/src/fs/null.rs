//! `/dev/null`.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::{File, OpenFile, stat_device};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::Stat;
use addr::UserVa;

const NUMBER: DeviceNumber = DeviceNumber { major: 1, minor: 3 };

pub(super) fn register() -> Result<(), RegisterError> {
    char_device::register(&["/dev/null"], NUMBER, |_, flags| Ok(OpenFile::new(Null, flags)))
}

/// An empty file that discards writes.
pub struct Null;

impl File for Null {
    fn read(&self, _: UserMemory<'_>, _: UserVa, _: usize) -> Result<usize, Errno> {
        Ok(0)
    }

    fn write(&self, _: UserMemory<'_>, _: UserVa, len: usize) -> Result<usize, Errno> {
        Ok(len)
    }

    fn seek(&self, _: i64, _: u64) -> Result<u64, Errno> {
        Ok(0)
    }

    fn stat(&self) -> Stat {
        stat_device(NUMBER.rdev())
    }
}
