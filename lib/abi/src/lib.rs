//! The interface between programs and the kernel: the subset of the Linux UAPI for arm64 that Tessera
//! implements, with Linux's numbers and layouts, and Tessera's own ioctls.
//!
//! Used by the kernel, and by the programs in `user/` for interfaces that `std` does not cover. Structures
//! are plain bytes (`zerocopy`) without implicit padding, which could leak kernel memory: padding fields are
//! named `gap_*`.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod auxv;
pub mod clock;
pub mod dma;
pub mod edu;
mod errno;
pub mod event;
pub mod file;
pub mod futex;
mod ioctl;
pub mod iommufd;
pub mod memory;
pub mod process;
pub mod signal;
pub mod socket;
pub mod sync_file;
mod syscall;
pub mod terminal;
pub mod vfio;

pub use errno::Errno;
pub use ioctl::{Ioctl, IoctlDirection};
pub use syscall::Syscall;

/// The machine name of `uname`; programs must be built for this architecture.
pub const MACHINE: &str = "aarch64";
