//! Allocators over indices and ranges. Nothing here touches the memory it hands out, and all state belongs to the
//! caller, who also brings the lock.
//!
//! - [`Zones`]: the free frames of the machine, low and high.
//! - [`Magazine`]: a few of them for one CPU alone.
//! - [`chunks`]: a length to the [`Frames`] that make it up, over any [`FrameSource`].
//! - [`RangeAllocator`]: address ranges, for devices, for vmalloc and for programs.
//! - [`Slots`]: the pages of one table; the one thing here that needs no lock.
//!
//! Their own books live in the global heap. Taking *and giving back* may allocate there; `heap_per_operation` of
//! each says how much one call can need, so that a kernel can see to its heap first.

#![cfg_attr(not(any(test, feature = "loom")), no_std)]
// Not `forbid`: two constructors are `unsafe fn`, as their caller has to prove ownership. No code here is unsafe.
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
mod slots;
mod source;
mod sync;
mod zone;

pub use chunks::{ChunkError, Request};
pub use frames::{Frames, OutOfHeap};
pub use magazine::Magazine;
pub use owned::{OwnedChunk, OwnedPages};
pub use range::{RangeAllocator, RangeError};
pub use slots::Slots;
pub use source::{FrameSource, Reach, Zone};
pub use zone::{ZoneStats, Zones};
