//! Streaming: memory that already exists, lent to a device and taken back.
//!
//! A list of pieces becomes one range of device addresses. Since an IOMMU maps whole pages, the pieces have to meet at
//! page borders; the first may start, and the last may end, anywhere in a page.
//!
//! For a device that does not see the CPUs' caches, lines are cleaned before it starts and dropped after it has
//! finished, with one barrier for the whole list. A line that it writes may not hold anything else: memory whose
//! start or end shares a line is refused for writing ([`DmaError::SharedLine`]) instead of bounced through a copy,
//! since what owns whole pages can as well own whole lines.

use super::buffer::SyncFor;
use super::device::Device;
use super::request::{MapPlacement, MapRequest};
use super::small_mappings::SmallMappings;
use crate::debug::{self, DebugTag, LastOwner};
use crate::iommu::LOST_BYTES;
use crate::memory::{linear, window, zones};
use addr::{AddrRange, Address, Chunk, FrameRun, Iova, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{
    Direction, DmaError, PhysSegment, Stream, StreamMapError, StreamMapping, StreamMemory, StreamOps,
};
use memory::chunks::Request;
use memory::{Frames, Reach};
use pagetable::Mapping;

/// The largest cache line of any Arm processor so far (Linux's `ARCH_DMA_MINALIGN`).
const CACHE_LINE: u64 = 128;

/// Lends `memory` to `device`, which may use it when this returns.
///
/// # Errors
/// [`DmaError::ZeroLength`], [`DmaError::UnalignedSegment`], [`DmaError::SharedLine`], [`DmaError::PastMask`],
/// [`DmaError::OutOfIova`], [`DmaError::OutOfTables`], without IOMMU [`DmaError::Scattered`]; the memory comes back.
pub fn map(
    device: &Arc<Device>,
    memory: Box<dyn StreamMemory>,
    direction: Direction,
) -> Result<Stream<dma_api::DeviceOwned>, StreamMapError> {
    match map_fast_path(device, &*memory, direction) {
        Some(mapping) => Ok(Stream::new(device.clone(), mapping, memory)),
        None => map_slow_path(device, memory, direction),
    }
}

/// What most loans are: one short piece for a device behind an IOMMU, which sees the CPUs' caches. `None` for all others,
/// and for what cannot be lent.
#[inline]
fn map_fast_path(device: &Device, memory: &dyn StreamMemory, direction: Direction) -> Option<StreamMapping> {
    let &[PhysSegment { start, len }] = memory.segments() else { return None };
    // With the first of these no sum below overflows, and the length is not 0.
    if (start.raw() | len.wrapping_sub(1)) >> ADDRESS_BITS != 0 || !device.is_coherent() {
        return None;
    }
    let pages = WholePages::around(&PhysSegment { start, len });
    if pages.end.raw() - pages.start.raw() > SmallMappings::MAX_BYTES {
        return None;
    }
    let at = device.domain().map_run(&pages, device.mask(), direction.device_writes())?.start();
    let start = at + start.raw() % PAGE_SIZE;
    // SAFETY: the device was just given the memory at this range; `map` makes the one stream of it.
    Some(unsafe { StreamMapping::new(AddrRange::new(start, start + len), direction) })
}

/// [`map`] of whatever there is.
#[inline(never)] // What it needs would weigh on those that are short.
fn map_slow_path(
    device: &Arc<Device>,
    memory: Box<dyn StreamMemory>,
    direction: Direction,
) -> Result<Stream<dma_api::DeviceOwned>, StreamMapError> {
    match map_segments(device, &*memory, direction) {
        Ok(mapping) => Ok(Stream::new(device.clone(), mapping, memory)),
        Err(error) => Err(refuse(memory, error)),
    }
}

#[cold]
fn refuse(memory: Box<dyn StreamMemory>, error: DmaError) -> StreamMapError {
    if error != DmaError::IommuTimeout {
        return StreamMapError { memory, error };
    }
    let len = memory.segments().iter().map(|segment| segment.len).sum();
    LOST_BYTES.add(len);
    core::mem::forget(memory);
    StreamMapError { memory: Box::new(LostMemory), error }
}

fn map_segments(
    device: &Device,
    memory: &dyn StreamMemory,
    direction: Direction,
) -> Result<StreamMapping, DmaError> {
    let segments = memory.segments();
    let SegmentList { offset, bytes, longest } = check(segments, direction, device.is_coherent())?;
    if !device.is_coherent() {
        sync_caches(memory, SyncFor::Device, direction);
    }
    let request = MapRequest {
        // The pieces meet at page borders, so this is the sum of their pages.
        len: (offset + bytes).next_multiple_of(PAGE_SIZE),
        align: alignment(longest),
        mask: device.mask(),
        placement: MapPlacement::Whole,
        mapping: mapping(direction),
    };
    let pages = device.domain().map(segments.iter().map(WholePages::around), &request)?;
    let tag = DebugTag::new("stream", offset + bytes, Some(device.name()));
    debug::mapping_added(&tag, device.domain().key(), pages);
    let start = pages.start() + offset;
    // SAFETY: the device was just given the memory at this range; `map_slow_path` makes the one stream of it.
    Ok(unsafe { StreamMapping::new(AddrRange::new(start, start + bytes), direction) })
}

impl Device {
    fn sync_caches(&self, memory: &dyn StreamMemory, to: SyncFor, direction: Direction) {
        if !self.is_coherent() {
            sync_caches(memory, to, direction);
        }
    }
}

impl StreamOps for Device {
    fn sync_for_cpu(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory) {
        self.sync_caches(memory, SyncFor::Cpu, mapping.direction());
    }

    fn sync_for_device(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory) {
        self.sync_caches(memory, SyncFor::Device, mapping.direction());
    }

    fn unmap(
        &self,
        mapping: StreamMapping,
        memory: Box<dyn StreamMemory>,
    ) -> Result<Box<dyn StreamMemory>, DmaError> {
        // The whole pages around the bytes; it was mapped, so its end is no overflow.
        let start = mapping.range().start().align_down(PAGE_SIZE);
        let pages = AddrRange::new(start, Iova::new(mapping.range().end().raw().next_multiple_of(PAGE_SIZE)));
        // The device first: until it can write no more, lines could be fetched again with what is old then.
        debug::mapping_removed(self.domain().key(), pages);
        let memory = self.domain().unmap(pages, memory)?;
        self.sync_caches(&*memory, SyncFor::Cpu, mapping.direction());
        Ok(memory)
    }
}

/// The rights that `direction` needs. A device that only writes gets read access too: stage 1 cannot say less.
fn mapping(direction: Direction) -> Mapping {
    match direction {
        Direction::ToDevice => Mapping::read_only(MemoryType::WriteBack),
        Direction::FromDevice | Direction::Bidirectional => Mapping::read_write(MemoryType::WriteBack),
    }
}

/// A list that can be lent.
struct SegmentList {
    /// Of the first byte in its page.
    offset: u64,
    /// In all pieces.
    bytes: u64,
    /// At least the longest piece, at most what its power of two ends with.
    longest: u64,
}

/// log2 of what no address and no length comes near.
const ADDRESS_BITS: u32 = u64::BITS - 2;

/// Looks at every piece once.
fn check(segments: &[PhysSegment], direction: Direction, coherent: bool) -> Result<SegmentList, DmaError> {
    let Some((first, rest)) = segments.split_first() else { return Err(DmaError::ZeroLength) };
    let offset = first.start.raw() % PAGE_SIZE;
    let mut end = first.start.raw().wrapping_add(first.len);
    let (mut bytes, mut borders) = (first.len, 0);
    // All bits that any of them has: what this says of the highest bits is true of every piece.
    let (mut starts, mut lasts) = (first.start.raw(), first.len.wrapping_sub(1));
    for PhysSegment { start, len } in rest {
        borders |= end | start.raw();
        end = start.raw().wrapping_add(*len);
        bytes = bytes.wrapping_add(*len);
        (starts, lasts) = (starts | start.raw(), lasts | len.wrapping_sub(1));
    }
    // Without the highest bits no length was 0, and no sum of two of them overflows, nor that of all.
    let most = match rest {
        [] => 0,
        _ => (segments.len() as u64).saturating_mul(lasts.wrapping_add(1)),
    };
    if !borders.is_multiple_of(PAGE_SIZE) || (starts | lasts | most) >> ADDRESS_BITS != 0 {
        return Err(list_error(segments));
    }
    if !coherent && direction.device_writes() && !(offset | (offset + bytes)).is_multiple_of(CACHE_LINE) {
        return Err(DmaError::SharedLine { offset, len: bytes });
    }
    Ok(SegmentList { offset, bytes, longest: lasts + 1 })
}

/// What is wrong with a list in which something is empty, is no memory, or does not meet its neighbour at a page border.
#[cold]
fn list_error(segments: &[PhysSegment]) -> DmaError {
    let last = segments.len() - 1;
    for (index, &PhysSegment { start, len }) in segments.iter().enumerate() {
        if (start.raw() | len.saturating_sub(1)) >> ADDRESS_BITS != 0 {
            return DmaError::TooLong { len };
        }
        let starts = index == 0 || start.is_aligned(PAGE_SIZE);
        let ends = index == last || (start + len).is_aligned(PAGE_SIZE);
        if len == 0 || !starts || !ends {
            return if last == 0 { DmaError::ZeroLength } else { DmaError::UnalignedSegment { index } };
        }
    }
    DmaError::TooLong { len: segments.iter().fold(0, |sum, segment| segment.len.saturating_add(sum)) }
}

/// The alignment that lets the longest piece be mapped by blocks or with the contiguous hint, if it is long enough for
/// either.
fn alignment(longest: u64) -> u64 {
    let useful = [Order::BLOCK_2M, Order::CONTIGUOUS].map(Order::bytes);
    useful.into_iter().find(|&bytes| bytes <= longest).unwrap_or(PAGE_SIZE)
}

/// The whole pages around a piece of a list that [`check`] has seen.
#[derive(Clone, Copy)]
struct WholePages {
    start: PhysAddr,
    end: PhysAddr,
}

impl WholePages {
    #[inline]
    fn around(segment: &PhysSegment) -> Self {
        let end = (segment.start.raw() + segment.len).next_multiple_of(PAGE_SIZE);
        Self { start: segment.start.align_down(PAGE_SIZE), end: PhysAddr::new(end) }
    }
}

impl FrameRun for WholePages {
    #[inline]
    fn start(&self) -> PhysAddr {
        self.start
    }
    #[inline]
    fn end(&self) -> PhysAddr {
        self.end
    }
}

/// The chunks of the whole pages around the pieces of a list that [`check`] has seen.
#[derive(Clone)]
struct PageChunks<'a> {
    segments: core::slice::Iter<'a, PhysSegment>,
    next: Pfn,
    end: Pfn,
}

impl<'a> PageChunks<'a> {
    fn new(segments: &'a [PhysSegment]) -> Self {
        Self { segments: segments.iter(), next: Pfn::new(0), end: Pfn::new(0) }
    }
}

impl Iterator for PageChunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        if self.next == self.end {
            let segment = self.segments.next()?;
            self.next = Pfn::containing(segment.start);
            self.end = Pfn::containing(segment.start + (segment.len - 1)).offset(1);
        }
        let chunk = Chunk::largest_at(self.next, self.end.raw() - self.next.raw())?;
        self.next = self.next.offset(chunk.frames());
        Some(chunk)
    }
}

/// Cache maintenance for `memory`, complete when this returns.
fn sync_caches(memory: &dyn StreamMemory, to: SyncFor, direction: Direction) {
    // SAFETY: whole pages of RAM that belong to `memory`, borrowed here, and are cacheable everywhere.
    unsafe { to.maintain_lines(PageChunks::new(memory.segments()), direction) };
    arch::barrier::dsb_sy();
}

/// What is left of memory that an IOMMU which does not answer may still know.
struct LostMemory;

// SAFETY: there is none.
unsafe impl StreamMemory for LostMemory {
    fn segments(&self) -> &[PhysSegment] {
        &[]
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// Kernel memory made to be lent: whole low frames, one piece or many.
pub struct Pages {
    frames: Frames,
    segments: Vec<PhysSegment>,
    tag: DebugTag,
}

impl Pages {
    /// `len` zero bytes in one piece.
    ///
    /// # Errors
    /// [`DmaError::ZeroLength`], [`DmaError::OutOfFrames`], [`DmaError::TooLong`].
    pub fn new(len: u64) -> Result<Box<Self>, DmaError> {
        Self::take(&Request { contiguous: true, ..Request::new(len.div_ceil(PAGE_SIZE)) }, len)
    }

    /// `len` zero bytes, a piece for each page.
    ///
    /// # Errors
    /// [`DmaError::ZeroLength`], [`DmaError::OutOfFrames`], [`DmaError::OutOfHeap`].
    pub fn scattered(len: u64) -> Result<Box<Self>, DmaError> {
        Self::take(&Request { largest: Order::PAGE, ..Request::new(len.div_ceil(PAGE_SIZE)) }, len)
    }

    fn take(request: &Request, len: u64) -> Result<Box<Self>, DmaError> {
        let tag = DebugTag::new("pages", len, None);
        let mut pages = Self { segments: Vec::new(), frames: Frames::new(), tag };
        super::frames::alloc(&Request { reach: Reach::LOW, ..*request }, &mut pages.frames)?;
        if request.contiguous {
            let start = pages.frames.chunks().next().map_or(PhysAddr::new(0), Chunk::start);
            pages.segments.push(PhysSegment { start, len });
        } else {
            let whole = |chunk: Chunk| PhysSegment { start: chunk.start(), len: chunk.bytes() };
            pages.segments.extend(pages.frames.chunks().map(whole));
            if let Some(last) = pages.segments.last_mut() {
                last.len -= pages.frames.bytes() - len;
            }
        }
        window::zero_all(&mut pages.frames);
        tag.write_canary(pages.frames.chunks(), MemoryType::WriteBack);
        Ok(Box::new(pages))
    }

    /// The name in reports of the checking build.
    pub fn tag(&self) -> &DebugTag {
        &self.tag
    }

    /// The bytes of piece `index` as the kernel sees them.
    pub fn piece(&mut self, index: usize) -> Option<&mut [u8]> {
        let segment = self.segments.get(index)?;
        let start = arch::pointer::to::<u8>(linear::address_of(segment.start));
        // SAFETY: low frames of this value's own, in the linear map until they are given back, which the borrow
        // prevents; initialised with zeroes.
        Some(unsafe { core::slice::from_raw_parts_mut(start, segment.len as usize) })
    }
}

// SAFETY: whole frames that belong to this value until it is dropped, given back nowhere else.
unsafe impl StreamMemory for Pages {
    fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        if self.segments.len() == 1 { self.piece(0) } else { None }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.tag.check_canary(self.frames.chunks(), MemoryType::WriteBack);
        self.frames.free_to(&mut zones::FrameAllocator::with_owner(LastOwner::Stream));
    }
}
