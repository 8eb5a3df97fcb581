//! The frames of buffers.

use super::inject::{self, Step};
use crate::memory::zones;
use addr::Order;
use dma_api::DmaError;
use memory::chunks::{self, ChunkError, Request};
use memory::{FrameSource, Frames, OwnedChunk, OwnedPages, Reach, Zone};

/// The zones, with failures on demand.
#[derive(Default)]
struct Source(zones::Source);

impl FrameSource for Source {
    fn take(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
        if inject::fails(Step::Chunk) {
            return None;
        }
        self.0.take(order, reach)
    }

    fn give(&mut self, chunk: OwnedChunk) {
        self.0.give(chunk);
    }

    fn take_pages(&mut self, wanted: u32, reach: Reach) -> Option<OwnedPages> {
        if inject::fails(Step::Chunk) {
            return None;
        }
        self.0.take_pages(wanted, reach)
    }

    fn give_pages(&mut self, pages: OwnedPages) {
        self.0.give_pages(pages);
    }
}

/// Takes what `request` asks for into `list`, which is empty; after an error it is empty again.
///
/// # Errors
/// [`DmaError::OutOfFrames`], [`DmaError::OutOfHeap`], [`DmaError::TooLong`], [`DmaError::ZeroLength`].
#[inline]
pub(super) fn take(request: &Request, list: &mut Frames) -> Result<(), DmaError> {
    match kept(request) {
        Some(chunk) => list.push(chunk).map_err(|(chunk, _)| {
            zones::give(chunk);
            DmaError::OutOfHeap
        }),
        None => search(request, list),
    }
}

/// The one chunk that is wanted, if this CPU keeps it. Which is most of the time, and needs no search.
#[inline]
fn kept(request: &Request) -> Option<OwnedChunk> {
    // The try that is to fail is left to the search.
    let order = request.one_chunk().filter(|_| !inject::is_armed(Step::Chunk))?;
    zones::take_kept(order, request.reach)
}

#[inline(never)]
fn search(request: &Request, list: &mut Frames) -> Result<(), DmaError> {
    fail_early(request.frames)?;
    chunks::take_into(&mut Source::default(), request, list).map_err(|error| match error {
        ChunkError::Nothing => DmaError::ZeroLength,
        ChunkError::TooLong { wanted } => DmaError::TooLong { len: wanted * addr::PAGE_SIZE },
        ChunkError::OutOfFrames { wanted, had } => DmaError::OutOfFrames { wanted, had },
        ChunkError::OutOfHeap => DmaError::OutOfHeap,
    })
}

/// Refuses what cannot be had: what the search would take until it knows, others would miss. Small requests miss nobody.
fn fail_early(wanted: u64) -> Result<(), DmaError> {
    if wanted <= Order::BLOCK_2M.frames() {
        return Ok(());
    }
    let had = zones::stats(Zone::Low).free() + zones::stats(Zone::High).free();
    if wanted > had { Err(DmaError::OutOfFrames { wanted, had }) } else { Ok(()) }
}
