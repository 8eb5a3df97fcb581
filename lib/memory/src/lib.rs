//! Allocators of frames, address ranges and slots. They never access the memory that they allocate. The
//! caller owns the state and provides the lock.
//!
//! - [`Zones`]: the free frames of the machine, lowmem and highmem.
//! - [`Magazine`]: a per-CPU cache of free chunks.
//! - [`chunks`]: allocates the [`Frames`] of a buffer from any [`FrameSource`].
//! - [`RangeAllocator`]: address ranges of devices, of vmalloc and of programs.
//! - [`RangeMap`]: ranges at addresses that a program chooses.
//! - [`Slots`]: the pages of one table; the only allocator that needs no lock.
//!
//! The accounting is on the global heap. Allocating *and freeing* may allocate there (`tests/heap.rs` bounds
//! how much), so the kernel keeps a heap reserve for it.

#![cfg_attr(not(any(test, feature = "loom")), no_std)]
// Not `forbid`: some constructors are `unsafe fn`, since their caller has to prove ownership. There is no
// unsafe block.
#![deny(unsafe_code)]

extern crate alloc;

mod bank;
mod block;
pub mod chunks;
mod frames;
mod large;
mod magazine;
mod owned;
mod range;
mod range_map;
mod slots;
mod source;
mod split;
mod sync;
mod zone;

pub use chunks::{ChunkError, Request};
pub use frames::{Frames, OutOfHeap};
pub use magazine::Magazine;
pub use owned::{OwnedChunk, OwnedPages};
pub use range::{RangeAllocator, RangeError};
pub use range_map::RangeMap;
pub use slots::Slots;
pub use source::{FrameSource, Reach, Zone};
pub use zone::{ZoneStats, Zones};
