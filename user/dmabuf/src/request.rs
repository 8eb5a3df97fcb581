//! The one `ioctl` call.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use abi::Ioctl;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What may be an ioctl's argument: plain bytes, so that whatever the kernel writes there is a value.
pub trait Argument: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Argument for T {}

/// Does `request` on a file; the kernel reads or replaces the argument as the request's direction says.
///
/// # Errors
/// Whatever the kernel answers; `InvalidInput` if the request is for an argument of another size.
pub fn request<T: Argument>(file: &impl AsFd, request: Ioctl, argument: &mut T) -> io::Result<()> {
    if (request.raw() >> 16) & 0x3fff != size_of::<T>() as u32 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is open while it is borrowed; the argument is ours alone, has the size that the request's
    // number says (checked above), and any bytes in it are a valid `T`.
    let status =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request.raw() as _, std::ptr::from_mut(argument)) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_of_another_size_never_reaches_the_kernel() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = request(&file, abi::dma::DMA_HEAP_IOCTL_ALLOC, &mut 0u64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_kernels_refusal_comes_back() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error =
            request(&file, abi::dma::DMA_STATISTICS, &mut abi::dma::Statistics::default()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
