//! The frames of buffers.

use crate::memory::zones;
use addr::Order;
use dma_api::DmaError;
use memory::chunks::{self, ChunkError, Request};
use memory::{Frames, OwnedChunk, Zone};

/// Takes what `request` asks for into `list`, which is empty; after an error it is empty again.
///
/// # Errors
/// [`DmaError::OutOfFrames`], [`DmaError::OutOfHeap`], [`DmaError::TooLong`], [`DmaError::ZeroLength`].
#[inline]
pub(super) fn alloc(request: &Request, list: &mut Frames) -> Result<(), DmaError> {
    match alloc_cached(request) {
        Some(chunk) => list.push(chunk).map_err(|(chunk, _)| {
            zones::free(chunk);
            DmaError::OutOfHeap
        }),
        None => search(request, list),
    }
}

/// The one chunk that is wanted, if this CPU keeps it. Which is most of the time, and needs no search.
#[inline]
fn alloc_cached(request: &Request) -> Option<OwnedChunk> {
    zones::alloc_cached(request.one_chunk()?, request.reach)
}

#[inline(never)]
fn search(request: &Request, list: &mut Frames) -> Result<(), DmaError> {
    check_free_memory(request.frames)?;
    chunks::alloc_into(&mut zones::FrameAllocator::default(), request, list).map_err(|error| match error {
        ChunkError::Nothing => DmaError::ZeroLength,
        ChunkError::TooLong { wanted } => DmaError::TooLong { len: wanted * addr::PAGE_SIZE },
        ChunkError::OutOfFrames { wanted, had } => DmaError::OutOfFrames { wanted, had },
        ChunkError::OutOfHeap => DmaError::OutOfHeap,
    })
}

/// Refuses what cannot be had: what the search would take until it knows, others would miss. Small requests miss nobody.
fn check_free_memory(wanted: u64) -> Result<(), DmaError> {
    if wanted <= Order::BLOCK_2M.frames() {
        return Ok(());
    }
    let had = zones::stats(Zone::Low).free() + zones::stats(Zone::High).free();
    if wanted > had { Err(DmaError::OutOfFrames { wanted, had }) } else { Ok(()) }
}
