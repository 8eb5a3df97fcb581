//! Types shared by all layers: one type per address space, address ranges, frames, chunks and the memory type
//! of a buffer.
//!
//! The crate is independent of the machine. There is no implicit conversion between address spaces: only the
//! layers that own a translation (page tables, the linear map, `dma-ranges`) convert, by `raw` and `new`.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod frame;
mod ids;
mod memory_type;
mod range;
mod size;

pub use address::{Address, Iova, KernelVa, PhysAddr, UserVa};
pub use frame::{Chunk, FrameRun, Order, OrderError, PAGE_SHIFT, PAGE_SIZE, Pfn};
pub use ids::{Asid, StreamId, Vmid};
pub use memory_type::MemoryType;
pub use range::AddrRange;
pub use size::{Size, SizeError, parse_size};
