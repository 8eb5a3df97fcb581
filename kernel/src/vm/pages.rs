//! The frames of anonymous memory: zeroed at allocation, pinned during DMA, freed with the last mapping or
//! pin.

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{window, zones};
use crate::sync::SpinLock;
use addr::{Chunk, PAGE_SIZE, Pfn, PhysAddr};
use alloc::vec::Vec;
use dma_api::{PhysSegment, StreamMemory};
use memory::{ChunkError, Frames, OwnedChunk, Request, chunks};
use program::PinnedFrames;

static PINS: SpinLock<PinnedFrames> = SpinLock::new(PinnedFrames::new());

/// Allocates this number of zeroed frames, highmem first.
pub fn alloc_zeroed(frames: u64) -> Result<Frames, ChunkError> {
    let mut frames = chunks::alloc(&mut zones::FrameAllocator::default(), &Request::new(frames))?;
    window::zero_all(&mut frames);
    Ok(frames)
}

/// Frees the frames of a program. The last unpin frees a pinned one.
///
/// # Safety
/// A program owned each of the frames, and its page table entries are cleared and invalidated in all TLBs.
pub unsafe fn release(frames: impl Iterator<Item = PhysAddr>) {
    let frames = frames.map(Pfn::containing).filter(|&frame| PINS.lock().unmap(frame));
    // Frame by frame: a long list would exhaust the heap's reserve, and the lock of the pins is taken before
    // the zones'.
    frames.for_each(|frame| {
        // SAFETY: the program that owned the frame releases it, as the caller promises, and it is not pinned.
        let chunk = unsafe { OwnedChunk::adopt(Chunk::page(frame)) };
        zones::free_from(chunk, LastOwner::Process);
    });
}

/// Returns the number of pinned frames.
pub fn pinned() -> usize {
    PINS.lock().frames()
}

/// Pinned pages of a program: their frames stay allocated until this is dropped, also if the program unmaps
/// them or exits.
#[derive(Debug, Default)]
pub struct PinnedPages {
    segments: Vec<PhysSegment>,
}

impl PinnedPages {
    /// The physical segments in the order of the program's addresses. Physically contiguous pages are merged.
    pub fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }

    /// Adds the `len` bytes at `start`, which are in one frame, and pins the frame. Returns `false` if the
    /// heap is exhausted.
    ///
    /// # Safety
    /// A program owns the frame, and its address space is locked.
    pub(super) unsafe fn add(&mut self, start: PhysAddr, len: u64) -> bool {
        debug_assert!(len > 0 && start.raw() % PAGE_SIZE + len <= PAGE_SIZE);
        match self.segments.last_mut() {
            Some(last) if last.start + last.len == start => last.len += len,
            _ => {
                if debug::fail_point(FailPoint::Heap) || self.segments.try_reserve(1).is_err() {
                    return false;
                }
                self.segments.push(PhysSegment { start, len });
            }
        }
        PINS.lock().pin(Pfn::containing(start));
        true
    }

    fn frames(&self) -> impl Iterator<Item = Pfn> + use<'_> {
        self.segments.iter().flat_map(|segment| {
            let (first, last) =
                (Pfn::containing(segment.start), Pfn::containing(segment.start + (segment.len - 1)));
            (first.raw()..=last.raw()).map(Pfn::new)
        })
    }
}

// SAFETY: the frames are RAM that a program owned when they were pinned, and they are not freed before they
// are unpinned, which only `drop` does. The list does not change after `AddressSpace::pin`. `bytes` returns
// `None`: the kernel has no view of the memory.
unsafe impl StreamMemory for PinnedPages {
    fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }

    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for frame in self.frames() {
            let free = PINS.lock().unpin(frame);
            if free {
                // SAFETY: the program released the frame (`release`), and this was the last pin.
                let chunk = unsafe { OwnedChunk::adopt(Chunk::page(frame)) };
                zones::free_from(chunk, LastOwner::Process);
            }
        }
    }
}
