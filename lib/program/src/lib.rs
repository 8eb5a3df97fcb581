//! What a program is made of, as plain data: where its ELF file wants to be ([`Executable`]), what its first stack
//! holds ([`StackImage`]), which ranges of its address space are what ([`Areas`]), the read-only files it sees
//! ([`Archive`], [`Tree`]) and its descriptors ([`Descriptors`]), and which of its frames
//! devices use ([`Pins`]).
//!
//! Everything that comes from outside (archive, ELF file, paths, addresses) is hostile: it is checked here, on
//! construction, and refused with an error that names what is wrong.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunk_range;
mod cpio;
mod executable;
mod fd_table;
mod initramfs;
mod pinned_frames;
mod stack;
mod vma;

pub use chunk_range::{ChunkRange, chunk_range};
pub use cpio::{CpioArchive, CpioEntry, CpioError};
pub use executable::{Executable, ExecutableError, LoadAddress, LoadSegment};
pub use fd_table::{FdEntry, FdTable};
pub use initramfs::{Initramfs, InitramfsError, Node, NodeId, NodeKind};
pub use pinned_frames::PinnedFrames;
pub use stack::{ArgumentListTooLong, StackImage, StackRequest};
pub use vma::{Alignment, MappedObject, Vma, VmaError, VmaMap};

/// The first address that is not a program's: 48 bits in TTBR0.
pub const USER_END: u64 = 1 << 48;
/// The lowest address where anything can be mapped, so that a null pointer with an offset still faults.
pub const USER_START: u64 = 0x1_0000;
