//! `/dev/random` and `/dev/urandom`.

use super::random;
use crate::fs::char_device::{self, DeviceNumber, RegisterError};
use crate::fs::memory_devices::MAJOR;
use crate::fs::{self, File};
use crate::sched;
use crate::vm::access::UserMemory;
use abi::Errno;
use addr::UserVa;

/// Registers the devices.
///
/// # Errors
/// [`RegisterError`]
pub fn register() -> Result<(), RegisterError> {
    let number = |minor| DeviceNumber { major: MAJOR, minor };
    char_device::register(&["/dev/random"], number(8), || fs::boxed(RandomDevice))?;
    char_device::register(&["/dev/urandom"], number(9), || fs::boxed(RandomDevice))
}

/// An infinite file of random bytes. Writes are mixed into the key of the generator.
struct RandomDevice;

impl File for RandomDevice {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        memory.write_generated(to, len, random::fill)
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut buffer = [0; 256];
        let mut done = 0;
        while done < len && (done == 0 || !sched::has_requests()) {
            let piece = &mut buffer[..(len - done).min(256)];
            match memory.read_bytes(from + done as u64, piece) {
                Ok(()) => random::seed(piece),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += piece.len();
            sched::yield_if_slice_ended();
        }
        Ok(done)
    }

    fn seek(&self, _: i64, _: u64) -> Result<u64, Errno> {
        Ok(0)
    }
}
