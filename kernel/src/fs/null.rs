//! `/dev/null`.

use super::{File, stat_device};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{Stat, device_number};
use addr::UserVa;

/// Takes everything, has nothing.
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
        stat_device(device_number(1, 3))
    }
}
