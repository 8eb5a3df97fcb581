//! The frames of buffers: taken chunk by chunk, so that no lock is held for the length of a list.

use super::inject::{self, Step};
use crate::memory::zones;
use addr::Order;
use dma_api::DmaError;
use memory::chunks::{self, ChunkError, Request};
use memory::{FrameSource, Frames, OwnedChunk, Reach};

/// The zones, locked for one chunk at a time. Before each the heap reserve is seen to, which a long list of small
/// chunks would use up otherwise: the zones keep their books on the heap.
struct Source;

impl FrameSource for Source {
    fn take(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
        if inject::fails(Step::Chunk) {
            return None;
        }
        zones::with(|zones| zones.take(order, reach))
    }

    fn give(&mut self, chunk: OwnedChunk) {
        zones::give(chunk);
    }
}

/// Takes what `request` asks for.
///
/// # Errors
/// [`DmaError::OutOfFrames`], [`DmaError::OutOfHeap`], [`DmaError::TooLong`], [`DmaError::ZeroLength`].
pub(super) fn take(request: &Request) -> Result<Frames, DmaError> {
    chunks::take(&mut Source, request).map_err(|error| match error {
        ChunkError::Nothing => DmaError::ZeroLength,
        ChunkError::TooLong { wanted } => DmaError::TooLong { len: wanted * addr::PAGE_SIZE },
        ChunkError::OutOfFrames { wanted, had } => DmaError::OutOfFrames { wanted, had },
        ChunkError::OutOfHeap => DmaError::OutOfHeap,
    })
}

/// Gives frames back, which nothing reaches any more.
pub(super) fn give_back(frames: Frames) {
    frames.give_back(&mut Source);
}
