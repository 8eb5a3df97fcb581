//! A program's anonymous frames: zero when they come, pinned while a device has them, free when nobody has.

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{window, zones};
use crate::sync::SpinLock;
use addr::{Chunk, PAGE_SIZE, Pfn, PhysAddr};
use alloc::vec::Vec;
use dma_api::{PhysSegment, StreamMemory};
use memory::{ChunkError, Frames, OwnedChunk, Request, chunks};
use program::PinnedFrames;

static PINS: SpinLock<PinnedFrames> = SpinLock::new(PinnedFrames::new());

/// So many zero-filled frames, highmem first.
pub fn alloc_zeroed(frames: u64) -> Result<Frames, ChunkError> {
    let mut frames = chunks::alloc(&mut zones::FrameAllocator::default(), &Request::new(frames))?;
    window::zero_all(&mut frames);
    Ok(frames)
}

/// Ends a program's ownership of `frames`. Pinned ones are freed with their last pin.
///
/// # Safety
/// A program owned each of the frames, its entries for them are cleared, and no TLB holds them.
pub unsafe fn release(frames: impl Iterator<Item = PhysAddr>) {
    let frames = frames.map(Pfn::containing).filter(|&frame| PINS.lock().unmap(frame));
    // One by one: a long list needs the heap's reserve again and again, and the pins' lock comes before the zones'.
    frames.for_each(|frame| {
        // SAFETY: the program that owned the frame gives it up (the caller's promise), and no pin holds it.
        let chunk = unsafe { OwnedChunk::adopt(Chunk::page(frame)) };
        zones::free_from(chunk, LastOwner::Process);
    });
}

/// How many frames are pinned.
pub fn pinned() -> usize {
    PINS.lock().frames()
}

/// Pages of a program that stay where they are, whatever the program does or however it ends, until this is dropped.
#[derive(Debug, Default)]
pub struct PinnedPages {
    segments: Vec<PhysSegment>,
}

impl PinnedPages {
    /// The bytes, in the order of the program's addresses; neighbours in RAM are one piece.
    pub fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }

    /// Pins the frame of the `len` bytes at `start`, and adds them. Returns `false` if the heap is exhausted.
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

// SAFETY: the frames are RAM that a program owned when they were pinned, and no one else gets them before they are
// unpinned, which only `drop` does; the list never changes after `AddressSpace::pin` has made it. There are no bytes: the
// kernel sees none of it.
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
                // SAFETY: the program released the frame (`release`), and this was its last pin.
                let chunk = unsafe { OwnedChunk::adopt(Chunk::page(frame)) };
                zones::free_from(chunk, LastOwner::Process);
            }
        }
    }
}
