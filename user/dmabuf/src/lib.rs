//! Buffers for devices as a program sees them, with Linux's names and numbers: heaps give dma-bufs, a dma-buf is
//! mapped with `mmap`, and `/dev/edu0` reaches it by DMA.
//!
//! Everything but [`Edu`], [`Buffer::chunks`], [`Buffer::leaves`] and [`Heap::statistics`] works on an ordinary Linux too.

mod buffer;
mod edu;
mod heap;
mod request;
mod view;

pub use buffer::Buffer;
pub use edu::{Edu, ImportedBuffer};
pub use heap::{CONTIGUOUS, Heap, SYSTEM, UNCACHED};
pub use request::{Argument, request};
pub use view::{Protection, View};
