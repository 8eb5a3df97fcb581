//! What a program and the kernel must agree on: the part of the Linux UAPI for arm64 that Tessera implements, with
//! Linux's numbers and layouts, and the ioctls of its own devices.
//!
//! Both sides use this crate: the kernel, and the programs under `user/` where `std` has no word for something.
//! Structures are plain bytes (`zerocopy`), without padding that could carry kernel memory out: every gap has a name.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod auxv;
pub mod clock;
pub mod dma;
pub mod edu;
mod errno;
pub mod file;
pub mod futex;
mod ioctl;
pub mod memory;
pub mod process;
pub mod signal;
mod syscall;
pub mod terminal;

pub use errno::Errno;
pub use ioctl::{Ioctl, IoctlDirection};
pub use syscall::Syscall;

/// What `uname` answers for the machine, and the only architecture programs can have.
pub const MACHINE: &str = "aarch64";
