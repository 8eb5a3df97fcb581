//! `/dev/null`, `/dev/zero` and `/dev/full`.

use super::File;
use super::char_device::{self, DeviceNumber, RegisterError};
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::UserVa;

/// The major number, which `/dev/random` and `/dev/urandom` have too.
pub const MAJOR: u32 = 1;

pub(super) fn register() -> Result<(), RegisterError> {
    let number = |minor| DeviceNumber { major: MAJOR, minor };
    char_device::register(&["/dev/null"], number(3), || super::boxed(Null))?;
    char_device::register(&["/dev/zero"], number(5), || super::boxed(Zero))?;
    char_device::register(&["/dev/full"], number(7), || super::boxed(Full))
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

/// An infinite file of zeroes that discards writes. A mapping of it is anonymous memory.
pub struct Zero;

impl File for Zero {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        read_zeroes(memory, to, len)
    }

    fn write(&self, _: UserMemory<'_>, _: UserVa, len: usize) -> Result<usize, Errno> {
        Ok(len)
    }

    fn seek(&self, _: i64, _: u64) -> Result<u64, Errno> {
        Ok(0)
    }
}

/// An infinite file of zeroes that is full.
struct Full;

impl File for Full {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        read_zeroes(memory, to, len)
    }

    fn write(&self, _: UserMemory<'_>, _: UserVa, _: usize) -> Result<usize, Errno> {
        Err(Errno::ENOSPC)
    }

    fn seek(&self, _: i64, _: u64) -> Result<u64, Errno> {
        Ok(0)
    }
}

fn read_zeroes(memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
    memory.write_generated(to, len, |_| {})
}
