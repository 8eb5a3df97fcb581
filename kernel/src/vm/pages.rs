//! The frames of processes: zeroed at allocation, owned by page table entries, pinned during DMA, freed with
//! the last entry or pin. Entries for pages own frames ([`FrameRecord`]), those for blocks own blocks of 2
//! MiB ([`BlockRecord`]).

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{self, window, zones};
use crate::sched::OutOfMemory;
use ::memory::{FrameSource, Frames, OwnedChunk, Reach, Request, chunks};
use addr::{AddrRange, Address, Chunk, Order, PAGE_SIZE, Pfn, PhysAddr};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use dma_api::{PhysSegment, StreamMemory};
use program::{
    BlockRecord, CowWrite, ForkedFrame, FrameRecord, FrameTable, HugePageSize, OutOfRecords,
    TooManyReferences, UnusedBlock,
};
use spin::Once;

/// The records of the frames that processes own.
static RECORDS: Once<FrameTable> = Once::new();
/// The number of pins.
static PINS: AtomicUsize = AtomicUsize::new(0);
/// The number of blocks that are not parts of huge pages.
static BLOCKS: AtomicU64 = AtomicU64::new(0);
/// The number of blocks in huge pages of each size.
static HUGE_BLOCKS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

const BLOCK: u64 = Order::BLOCK_2M.bytes();
const BLOCK_FRAMES: u64 = Order::BLOCK_2M.frames();

/// The records that an entry owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Those of frames: an entry for a page.
    Frame,
    /// Those of blocks: an entry for a block of 2 MiB or 1 GiB.
    Block,
}

impl RecordKind {
    /// The kind for an entry that maps `bytes`.
    pub fn of_leaf(bytes: u64) -> Self {
        if bytes == PAGE_SIZE { Self::Frame } else { Self::Block }
    }
}

fn records() -> Result<&'static FrameTable, OutOfRecords> {
    RECORDS.try_call_once(|| FrameTable::new(&memory::layout().ram))
}

/// Returns the bytes of the heap that the records have, which are kept.
pub fn record_bytes() -> usize {
    RECORDS.get().map_or(0, FrameTable::record_bytes)
}

/// Returns the number of blocks that are mapped as a whole, or were and are still shared or pinned as a
/// whole. Huge pages are not included.
pub fn block_count() -> u64 {
    BLOCKS.load(Ordering::Relaxed)
}

/// Returns the number of blocks of 2 MiB in huge pages of this size, including reserved ones.
pub fn huge_block_count(size: HugePageSize) -> u64 {
    HUGE_BLOCKS[size as usize].load(Ordering::Relaxed)
}

fn block_counter(huge: Option<HugePageSize>) -> &'static AtomicU64 {
    huge.map_or(&BLOCKS, |size| &HUGE_BLOCKS[size as usize])
}

/// Returns the record of a frame that a process owns, and that of its block.
fn record(frame: Pfn) -> (&'static BlockRecord, &'static FrameRecord) {
    let record = RECORDS.get().and_then(|records| records.get(frame));
    record.unwrap_or_else(|| panic!("{frame:?} belongs to no process"))
}

/// Returns the records of the blocks that contain any of `frames`, which processes own.
#[inline]
fn block_records(frames: AddrRange<PhysAddr>) -> &'static [BlockRecord] {
    let Some(records) = RECORDS.get() else { panic!("{frames:?} belongs to no process") };
    let first = Pfn::containing(frames.start()).raw();
    records.blocks(Pfn::new(first), frames.end().raw().div_ceil(PAGE_SIZE) - first)
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
    for chunk in frames.chunks() {
        for (_, records) in records.slices(chunk.first(), chunk.frames()) {
            records.iter().for_each(FrameRecord::own);
        }
    }
    Ok(frames)
}

/// Allocates a block of any contents, or a huge page of `huge`, from one free chunk. Each block has one
/// owner, the page table entry that the caller stores.
pub fn alloc_block(huge: Option<HugePageSize>) -> Result<OwnedChunk, OutOfMemory> {
    let records = records().map_err(|_| OutOfMemory)?;
    let order = match huge {
        None | Some(HugePageSize::Size2M) => Order::BLOCK_2M,
        Some(HugePageSize::Size1G) => Order::MAX,
    };
    let block = match huge {
        // The program gets pages instead: not worth a search in the caches of all CPUs at each page fault.
        None => zones::FrameAllocator::without_drain().alloc(order, Reach::ANYWHERE),
        Some(_) => zones::alloc(order, Reach::ANYWHERE),
    };
    let block = block.ok_or(OutOfMemory)?;
    let (first, frames) = (block.chunk().first(), order.frames());
    // The records of the frames, so that a split needs no memory.
    let fails = || debug::fail_point(FailPoint::Heap) || records.ensure(first, frames).is_err();
    if huge.is_none() && fails() {
        zones::free(block);
        return Err(OutOfMemory);
    }
    records.blocks(first, frames).iter().for_each(|record| record.own(huge));
    block_counter(huge).fetch_add(frames / BLOCK_FRAMES, Ordering::Relaxed);
    Ok(block)
}

/// Allocates a copy of `from`, a block or a huge page of `huge`, as [`alloc_block`].
///
/// # Safety
/// The caller owns `from`, which is write-back memory.
pub unsafe fn alloc_block_copy(
    from: AddrRange<PhysAddr>,
    huge: Option<HugePageSize>,
) -> Result<AddrRange<PhysAddr>, OutOfMemory> {
    let copy = alloc_block(huge)?.release().range();
    for (source, target) in frames_in(from).zip(frames_in(copy)) {
        // SAFETY: as the caller promises; the copy has no other user.
        unsafe { window::copy_frame(source, target) };
    }
    Ok(copy)
}

/// Gives up a block of [`alloc_block`] that no entry maps.
pub fn free_unmapped_block(block: OwnedChunk) {
    // SAFETY: the owner of `alloc_block`; no entry maps the block.
    unsafe { release(block.release().range(), RecordKind::Block) };
}

/// Splits the records of `block`, which is 2 MiB and no huge page: its owner, an entry that maps all of it,
/// becomes an owner of each frame.
///
/// # Safety
/// The calls for the former entry, from now on, are those for entries of its pages.
pub unsafe fn split(block: AddrRange<PhysAddr>) {
    let dissolved = records_of(block).filter(|(record, frames)| record.split(frames)).count();
    BLOCKS.fetch_sub(dissolved as u64, Ordering::Relaxed);
}

/// Gives up frames of [`alloc_zeroed`] that no entry maps.
pub fn free_unmapped(frames: Frames) {
    for frame in frames.chunks().flat_map(|chunk| frames_in(chunk.range())) {
        let is_last = record(frame).1.release();
        debug_assert!(is_last, "{frame:?} is mapped or pinned");
    }
    zones::free_all(frames);
}

fn frames_in(range: AddrRange<PhysAddr>) -> impl Iterator<Item = Pfn> {
    let first = Pfn::containing(range.start()).raw();
    (first..first + range.len() / PAGE_SIZE).map(Pfn::new)
}

/// Removes an owner of each of `frames`, and frees those without another owner or a pin.
///
/// # Safety
/// Page table entries of a process, which own records of this kind, mapped the frames, and are cleared and
/// invalidated in all TLBs.
pub unsafe fn release(frames: AddrRange<PhysAddr>, kind: RecordKind) {
    match kind {
        RecordKind::Frame => release_frames(frames),
        RecordKind::Block => free_unused_blocks(frames, BlockRecord::release),
    }
}

/// Frees the blocks that contain `frames`, or the parts of each, that `remove` makes unused by the removal of
/// an owner or a pin.
fn free_unused_blocks(frames: AddrRange<PhysAddr>, remove: impl Fn(&BlockRecord) -> UnusedBlock) {
    let start = frames.start().align_down(BLOCK);
    let (mut at, mut unused) = (Pfn::containing(start), 0);
    for record in block_records(frames) {
        let removed = remove(record);
        if let UnusedBlock::Whole(huge) = removed {
            block_counter(huge).fetch_sub(1, Ordering::Relaxed);
            unused += BLOCK_FRAMES;
            continue;
        }
        if unused > 0 {
            free(at, unused);
        }
        let this = at.offset(unused);
        if removed == UnusedBlock::Parts {
            BLOCKS.fetch_sub(1, Ordering::Relaxed);
            free_parts(this);
        }
        (at, unused) = (this.offset(BLOCK_FRAMES), 0);
    }
    if unused > 0 {
        free(at, unused);
    }
    assert!(at.offset(unused).start() >= frames.end(), "frames without an owner");
}

/// Removes the reference of a split block from `first` on to each of its frames, and frees those without
/// others.
fn free_parts(first: Pfn) {
    let block = AddrRange::new(first.start(), first.start() + BLOCK);
    let frames = frames_in(block).zip(records_of(block).flat_map(|(_, frames)| frames));
    frames.filter(|(_, record)| record.leave_block()).for_each(|(frame, _)| free(frame, 1));
}

fn release_frames(frames: AddrRange<PhysAddr>) {
    let (mut at, mut unused) = (Pfn::containing(frames.start()), 0);
    for (_, records) in records_of(frames) {
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

/// Returns the records of frames that processes own, a slice per block, with its record.
fn records_of(
    frames: AddrRange<PhysAddr>,
) -> impl Iterator<Item = (&'static BlockRecord, &'static [FrameRecord])> {
    let Some(records) = RECORDS.get() else { panic!("{frames:?} belongs to no process") };
    records.slices(Pfn::containing(frames.start()), frames.len() / PAGE_SIZE)
}

/// Returns the effect of a write of the process to `frames`, which one entry of it maps read-only.
pub fn write(frames: AddrRange<PhysAddr>) -> CowWrite {
    match RecordKind::of_leaf(frames.len()) {
        RecordKind::Frame => {
            let (block, frame) = record(Pfn::containing(frames.start()));
            frame.write(block)
        }
        RecordKind::Block => {
            // All blocks of a huge page have the same owners, but an exit of another owner removes them one
            // by one.
            let is_copied = |record: &BlockRecord| record.write() == CowWrite::Copy;
            if block_records(frames).iter().any(is_copied) { CowWrite::Copy } else { CowWrite::Reuse }
        }
    }
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
    for (block, records) in records_of(frames) {
        for record in records {
            match record.fork(block) {
                Ok(ForkedFrame::Shared) => shared += 1,
                Ok(ForkedFrame::Copied) => return Ok(first(shared)),
                Err(TooManyReferences) => {
                    // SAFETY: the owners that were added above; no entry maps the frames for them.
                    unsafe { release(first(shared), RecordKind::Frame) };
                    return Err(OutOfMemory);
                }
            }
        }
    }
    Ok(first(shared))
}

/// Adds an owner, the entry of a child, to the blocks of `leaf`, one leaf of the parent; none if a device may
/// write any of them: then the child needs a copy.
///
/// # Errors
/// [`OutOfMemory`]; no owner was added.
///
/// # Safety
/// As for [`fork`].
pub unsafe fn fork_block(leaf: AddrRange<PhysAddr>) -> Result<ForkedFrame, OutOfMemory> {
    for (index, record) in block_records(leaf).iter().enumerate() {
        let forked = record.fork();
        if forked == Ok(ForkedFrame::Shared) {
            continue;
        }
        if index > 0 {
            let shared = AddrRange::new(leaf.start(), leaf.start() + index as u64 * BLOCK);
            // SAFETY: the owners that were added above; no entry maps the frames for them.
            unsafe { release(shared, RecordKind::Block) };
        }
        return forked.map_err(|TooManyReferences| OutOfMemory);
    }
    Ok(ForkedFrame::Shared)
}

/// Adds an owner to a huge page of a memory object: the page table entry that the caller stores.
///
/// # Safety
/// The object owns the page, and is locked.
pub unsafe fn share_block(leaf: AddrRange<PhysAddr>) -> Result<(), OutOfMemory> {
    for (index, record) in block_records(leaf).iter().enumerate() {
        if record.share().is_err() {
            let shared = AddrRange::new(leaf.start(), leaf.start() + index as u64 * BLOCK);
            // SAFETY: the owners that were added above; no entry maps the frames for them.
            unsafe { release(shared, RecordKind::Block) };
            return Err(OutOfMemory);
        }
    }
    Ok(())
}

/// Adds an owner to a frame of a memory object: the page table entry that the caller stores.
///
/// # Safety
/// The object owns the frame, and is locked.
pub unsafe fn share(frame: PhysAddr) -> Result<(), OutOfMemory> {
    record(Pfn::containing(frame)).1.share().map_err(|TooManyReferences| OutOfMemory)
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
    /// The records that the segments pin, with the number of the first segment of each kind.
    kinds: Vec<(usize, RecordKind)>,
}

impl PinnedPages {
    /// The physical segments in the order of the program's addresses. Physically contiguous pages are merged,
    /// and so are blocks.
    pub fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }

    /// Adds the `len` bytes at `start`, and pins their frames or blocks. Returns `false`, without a change,
    /// if the heap is exhausted, or a frame has too many pins.
    ///
    /// # Safety
    /// A program owns the frames by entries of this kind for adjacent pages or blocks, and its address space
    /// is locked.
    pub(super) unsafe fn add(&mut self, start: PhysAddr, len: u64, kind: RecordKind) -> bool {
        debug_assert!(len > 0);
        let is_same_kind = self.kinds.last().is_some_and(|last| last.1 == kind);
        let extends = is_same_kind && self.segments.last().is_some_and(|last| last.start + last.len == start);
        if !extends && (debug::fail_point(FailPoint::Heap) || self.segments.try_reserve(1).is_err()) {
            return false;
        }
        if !is_same_kind && self.kinds.try_reserve(1).is_err() {
            return false;
        }
        let Some(pins) = pin(PhysSegment { start, len }, kind) else { return false };
        PINS.fetch_add(pins, Ordering::Relaxed);
        match self.segments.last_mut() {
            Some(last) if extends => last.len += len,
            _ => {
                if !is_same_kind {
                    self.kinds.push((self.segments.len(), kind));
                }
                self.segments.push(PhysSegment { start, len });
            }
        }
        true
    }
}

/// The whole frames of a segment.
fn whole_frames(segment: PhysSegment) -> AddrRange<PhysAddr> {
    let end = (segment.start + segment.len).raw().next_multiple_of(PAGE_SIZE);
    AddrRange::new(segment.start.align_down(PAGE_SIZE), PhysAddr::new(end))
}

/// Pins the frames or blocks of a segment, and returns their number; `None`, without a change, if one has too
/// many pins.
fn pin(segment: PhysSegment, kind: RecordKind) -> Option<usize> {
    let frames = whole_frames(segment);
    // The fast path of one block: saves a third.
    if kind == RecordKind::Block
        && let [record] = block_records(frames)
    {
        return record.pin().is_ok().then_some(1);
    }
    let mut done = 0;
    let mut add = |pin: Result<(), TooManyReferences>| {
        done += usize::from(pin.is_ok());
        pin
    };
    let pinned = match kind {
        RecordKind::Frame => {
            records_of(frames).flat_map(|(_, records)| records).try_for_each(|record| add(record.pin()))
        }
        RecordKind::Block => block_records(frames).iter().try_for_each(|record| add(record.pin())),
    };
    if pinned.is_err() && done > 0 {
        let unit = if kind == RecordKind::Frame { PAGE_SIZE } else { BLOCK };
        let start = frames.start().align_down(unit);
        unpin(PhysSegment { start, len: done as u64 * unit }, kind);
    }
    pinned.is_ok().then_some(done)
}

/// Removes the pins of a segment, and frees the frames that nothing else uses. Returns their number.
fn unpin(segment: PhysSegment, kind: RecordKind) -> usize {
    let frames = whole_frames(segment);
    match kind {
        RecordKind::Frame => {
            let records = records_of(frames).flat_map(|(_, records)| records);
            let unused = frames_in(frames).zip(records).filter(|(_, record)| record.unpin());
            unused.for_each(|(frame, _)| free(frame, 1));
            (frames.len() / PAGE_SIZE) as usize
        }
        RecordKind::Block => {
            free_unused_blocks(frames, BlockRecord::unpin);
            block_records(frames).len()
        }
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
        let mut end = self.segments.len();
        for &(first, kind) in self.kinds.iter().rev() {
            for &segment in &self.segments[first..end] {
                PINS.fetch_sub(unpin(segment, kind), Ordering::Relaxed);
            }
            end = first;
        }
    }
}
