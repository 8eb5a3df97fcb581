//! The frames of processes: zeroed at allocation, owned by page table entries, pinned during DMA, freed with
//! the last entry or pin ([`FrameRecord`]).

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{self, window, zones};
use crate::sched::OutOfMemory;
use ::memory::{FrameSource, Frames, OwnedChunk, Request, chunks};
use addr::{AddrRange, Chunk, PAGE_SIZE, Pfn, PhysAddr};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use dma_api::{PhysSegment, StreamMemory};
use program::{CowWrite, ForkedFrame, FrameRecord, FrameTable, OutOfRecords, TooManyReferences};
use spin::Once;

/// The records of the frames that processes own.
static RECORDS: Once<FrameTable> = Once::new();
/// The number of pins.
static PINS: AtomicUsize = AtomicUsize::new(0);

fn records() -> Result<&'static FrameTable, OutOfRecords> {
    RECORDS.try_call_once(|| FrameTable::new(&memory::layout().ram))
}

/// Returns the bytes of the heap that the records have, which are kept.
pub fn record_bytes() -> usize {
    RECORDS.get().map_or(0, FrameTable::record_bytes)
}

/// Returns the record of a frame that a process owns.
fn record(frame: Pfn) -> &'static FrameRecord {
    let record = RECORDS.get().and_then(|records| records.get(frame));
    record.unwrap_or_else(|| panic!("{frame:?} belongs to no process"))
}

/// Allocates this number of zeroed frames, highmem first. Each has one owner, the page table entry that the
/// caller stores.
pub fn alloc_zeroed(frames: u64) -> Result<Frames, OutOfMemory> {
    let mut frames = alloc(frames)?;
    window::zero_all(&mut frames);
    Ok(frames)
}

/// Allocates a copy of the frame `from`. Its owner is the page table entry that the caller stores.
///
/// # Safety
/// The caller owns `from`, which is write-back memory.
pub unsafe fn alloc_copy(from: PhysAddr) -> Result<PhysAddr, OutOfMemory> {
    let mut frames = alloc(1)?;
    let Some(copy) = frames.only() else { panic!("one frame in {} chunks", frames.chunk_count()) };
    // SAFETY: as the caller promises; `frames` owns the copy.
    unsafe { window::copy_frame(Pfn::containing(from), copy.first()) };
    // The entry owns it now.
    frames.drain().for_each(|chunk| {
        chunk.release();
    });
    Ok(copy.start())
}

/// Allocates frames with any contents.
pub fn alloc(frames: u64) -> Result<Frames, OutOfMemory> {
    let records = records().map_err(|_| OutOfMemory)?;
    let frames = chunks::alloc(&mut zones::FrameAllocator::default(), &Request::new(frames))
        .map_err(|_| OutOfMemory)?;
    let ensure = |chunk: Chunk| records.ensure(Pfn::containing(chunk.start()), chunk.frames());
    if debug::fail_point(FailPoint::Heap) || frames.chunks().try_for_each(ensure).is_err() {
        zones::free_all(frames);
        return Err(OutOfMemory);
    }
    let slices =
        frames.chunks().flat_map(|chunk| records.slices(Pfn::containing(chunk.start()), chunk.frames()));
    slices.flatten().for_each(FrameRecord::own);
    Ok(frames)
}

/// Gives up frames of [`alloc_zeroed`] that no entry maps.
pub fn free_unmapped(frames: Frames) {
    for frame in frames.chunks().flat_map(frames_of) {
        let is_last = record(frame).release();
        debug_assert!(is_last, "{frame:?} is mapped or pinned");
    }
    zones::free_all(frames);
}

fn frames_of(chunk: Chunk) -> impl Iterator<Item = Pfn> {
    let first = Pfn::containing(chunk.start()).raw();
    (first..first + chunk.frames()).map(Pfn::new)
}

/// Removes an owner of each of `frames`, and frees those without another owner or a pin.
///
/// # Safety
/// A page table entry of a process owned each of the frames, and is cleared and invalidated in all TLBs.
pub unsafe fn release(frames: AddrRange<PhysAddr>) {
    let (mut at, mut unused) = (Pfn::containing(frames.start()), 0);
    for records in records_of(frames) {
        for record in records {
            if record.release() {
                unused += 1;
                continue;
            }
            if unused > 0 {
                free(at, unused);
            }
            (at, unused) = (at.offset(unused + 1), 0);
        }
    }
    if unused > 0 {
        free(at, unused);
    }
    assert_eq!(at.offset(unused).start(), frames.end(), "frames without an owner");
}

/// Returns the records of frames that processes own, a slice per section.
fn records_of(frames: AddrRange<PhysAddr>) -> impl Iterator<Item = &'static [FrameRecord]> {
    let Some(records) = RECORDS.get() else { panic!("{frames:?} belongs to no process") };
    records.slices(Pfn::containing(frames.start()), frames.len() / PAGE_SIZE)
}

/// Returns the effect of a write of the process to the frame, which its entry maps read-only.
pub fn write(frame: PhysAddr) -> CowWrite {
    record(Pfn::containing(frame)).write()
}

/// Adds an owner, the entry of a child, to each of `frames` up to the first that a device may write. Returns
/// these frames; if there are none, the child needs a copy of the first.
///
/// # Errors
/// [`OutOfMemory`]; no owner was added.
///
/// # Safety
/// A process owns the frames, and its address space is locked.
pub unsafe fn fork(frames: AddrRange<PhysAddr>) -> Result<AddrRange<PhysAddr>, OutOfMemory> {
    let mut shared = 0;
    let first = |count: u64| AddrRange::new(frames.start(), frames.start() + count * PAGE_SIZE);
    for records in records_of(frames) {
        for record in records {
            match record.fork() {
                Ok(ForkedFrame::Shared) => shared += 1,
                Ok(ForkedFrame::Copied) => return Ok(first(shared)),
                Err(TooManyReferences) => {
                    // SAFETY: the owners that were added above; no entry maps the frames for them.
                    unsafe { release(first(shared)) };
                    return Err(OutOfMemory);
                }
            }
        }
    }
    Ok(first(shared))
}

/// Adds an owner to a frame of a memory object: the page table entry that the caller stores.
///
/// # Safety
/// The object owns the frame, and is locked.
pub unsafe fn share(frame: PhysAddr) -> Result<(), OutOfMemory> {
    record(Pfn::containing(frame)).share().map_err(|TooManyReferences| OutOfMemory)
}

/// Frees `count` frames from `first` on, whose last owner or pin was removed.
fn free(first: Pfn, count: u64) {
    let mut allocator = zones::FrameAllocator::with_owner(LastOwner::Process);
    for chunk in Chunk::of_range(AddrRange::new(first.start(), first.offset(count).start())) {
        // SAFETY: the records say that nothing uses the frames, and only their last users get that answer.
        allocator.free(unsafe { OwnedChunk::adopt(chunk) });
    }
}

/// Returns the number of pins of frames.
pub fn pinned() -> usize {
    PINS.load(Ordering::Relaxed)
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
    /// heap is exhausted, or the frame has too many pins.
    ///
    /// # Safety
    /// A program owns the frame, and its address space is locked.
    pub(super) unsafe fn add(&mut self, start: PhysAddr, len: u64) -> bool {
        debug_assert!(len > 0 && start.raw() % PAGE_SIZE + len <= PAGE_SIZE);
        let extends = self.segments.last().is_some_and(|last| last.start + last.len == start);
        if !extends && (debug::fail_point(FailPoint::Heap) || self.segments.try_reserve(1).is_err()) {
            return false;
        }
        if record(Pfn::containing(start)).pin().is_err() {
            return false;
        }
        PINS.fetch_add(1, Ordering::Relaxed);
        match self.segments.last_mut() {
            Some(last) if extends => last.len += len,
            _ => self.segments.push(PhysSegment { start, len }),
        }
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
            PINS.fetch_sub(1, Ordering::Relaxed);
            if record(frame).unpin() {
                free(frame, 1);
            }
        }
    }
}
