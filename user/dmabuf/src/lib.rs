//! User-space interface to DMA buffers, with Linux's names and numbers: dma-heaps allocate dma-bufs, `mmap`
//! maps them, and `/dev/edu0` accesses them by DMA.
//!
//! [`Edu`], [`Buffer::chunks`], [`Buffer::leaves`] and [`Heap::statistics`] need Tessera; the rest also works
//! on Linux.

mod buffer;
mod edu;
mod heap;
mod request;
mod view;

pub use buffer::Buffer;
pub use edu::{Edu, ImportedBuffer};
pub use heap::{CONTIGUOUS, Heap, SYSTEM, UNCACHED};
pub use request::{Argument, request, request_with_size};
pub use view::{Protection, View};
