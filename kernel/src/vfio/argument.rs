//! Arguments of ioctls that begin with their size.

use crate::vm::access::UserMemory;
use abi::Errno;
use addr::UserVa;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Reads a structure whose first field is its size in the program, of at least `min` bytes. Returns it with
/// that size; fields beyond it are 0.
///
/// # Errors
/// `EINVAL` for a smaller size, `EFAULT`.
pub fn read<T: FromBytes + IntoBytes>(
    memory: UserMemory<'_>,
    at: UserVa,
    min: usize,
) -> Result<(T, usize), Errno> {
    let size: u32 = memory.read(at)?;
    let size = size as usize;
    if size < min {
        return Err(Errno::EINVAL);
    }
    Ok((memory.read_prefix(at, size.min(size_of::<T>()))?, size))
}

/// As [`read`], where bytes behind the structure must be 0.
///
/// # Errors
/// `E2BIG` if they are not.
pub fn read_extensible<T: FromBytes + IntoBytes>(
    memory: UserMemory<'_>,
    at: UserVa,
) -> Result<(T, usize), Errno> {
    let (value, size) = read::<T>(memory, at, size_of::<T>())?;
    let mut done = size_of::<T>();
    while done < size {
        let mut rest = [0; 64];
        let rest = &mut rest[..(size - done).min(64)];
        memory.read_bytes(at + done as u64, rest)?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        done += rest.len();
        if done > 4096 {
            return Err(Errno::E2BIG);
        }
    }
    Ok((value, size))
}

/// Writes a structure, up to the size that the program gave.
///
/// # Errors
/// `EFAULT`
pub fn write<T: IntoBytes + Immutable>(
    memory: UserMemory<'_>,
    at: UserVa,
    value: &T,
    size: usize,
) -> Result<(), Errno> {
    memory.write_prefix(at, value, size)
}
