//! Typed `ioctl`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use abi::Ioctl;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An ioctl argument: plain bytes, so that every value written by the kernel is valid.
pub trait Argument: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Argument for T {}

/// Issues an ioctl. The kernel reads or writes the argument according to the direction of `request`.
///
/// # Errors
/// The error of the ioctl; `InvalidInput` if the argument size of `request` is not that of `T`.
pub fn request<T: Argument>(file: &impl AsFd, request: Ioctl, argument: &mut T) -> io::Result<()> {
    if (request.raw() >> 16) & 0x3fff != size_of::<T>() as u32 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is open while it is borrowed; the argument is exclusively borrowed, has the size
    // encoded in the ioctl number (checked above), and all byte patterns are valid for `T`.
    let status =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request.raw() as _, std::ptr::from_mut(argument)) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Issues an ioctl of VFIO or iommufd, whose number has no size: the first field of the argument is its size,
/// which is set here.
///
/// # Errors
/// The error of the ioctl; `InvalidInput` if the number has a size, or the argument has no such field.
pub fn request_with_size<T: Argument>(file: &impl AsFd, request: Ioctl, argument: &mut T) -> io::Result<()> {
    let size = size_of::<T>() as u32;
    let field = argument.as_mut_bytes().get_mut(..size_of::<u32>()).ok_or(io::ErrorKind::InvalidInput)?;
    if request.raw() >> 16 != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field.copy_from_slice(&size.to_le_bytes());
    // SAFETY: as in `request`; the kernel accesses as many bytes as the first field says.
    let status =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request.raw() as _, std::ptr::from_mut(argument)) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_size_mismatch_is_rejected_before_the_ioctl() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = request(&file, abi::dma::DMA_HEAP_IOCTL_ALLOC, &mut 0u64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn kernel_error_is_returned() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error =
            request(&file, abi::dma::DMA_STATISTICS, &mut abi::dma::Statistics::default()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
