//! `/dev/null`.

use super::File;
use super::char_device::{self, DeviceNumber, RegisterError};
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::UserVa;

const NUMBER: DeviceNumber = DeviceNumber { major: 1, minor: 3 };

pub(super) fn register() -> Result<(), RegisterError> {
    char_device::register(&["/dev/null"], NUMBER, || super::boxed(Null))
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
}
