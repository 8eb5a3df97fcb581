//! Streaming mappings of existing memory.
//!
//! A scatter-gather list becomes one IOVA range. Since an IOMMU maps whole pages, adjacent segments must meet
//! at page boundaries; only the first may start, and only the last may end, inside a page.
//!
//! For a device that does not snoop the CPU caches, lines are cleaned before the transfer and invalidated
//! after it, with one barrier for the whole list. A cache line that the device writes must not be shared with
//! other data: a segment that starts or ends inside a line is refused ([`DmaError::SharedLine`]) instead of
//! copied through a bounce buffer, since an owner of whole pages can align to whole lines.

use super::buffer::SyncFor;
use super::device::Device;
use super::request::{MapPlacement, MapRequest};
use super::small_mappings::SmallMappings;
use crate::debug::{self, DebugTag, LastOwner};
use crate::iommu;
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

/// Maps `memory` for `device`, which owns it from then on.
///
/// # Errors
/// [`DmaError::ZeroLength`], [`DmaError::UnalignedSegment`], [`DmaError::SharedLine`],
/// [`DmaError::PastMask`], [`DmaError::OutOfIova`], [`DmaError::OutOfTables`], without IOMMU
/// [`DmaError::Scattered`]; the error returns the memory. After [`DmaError::IommuTimeout`] the memory is
/// leaked.
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

/// The fast path: one short segment for a coherent device behind an IOMMU. Saves the checks of a list, cache
/// maintenance, and most of the domain's map ([`Domain::map_run`](super::Domain::map_run)): 149 of 360
/// instructions of a `map_single` of 4 KiB. `None` for all other requests, and for invalid ones.
#[inline]
fn map_fast_path(device: &Device, memory: &dyn StreamMemory, direction: Direction) -> Option<StreamMapping> {
    let &[PhysSegment { start, len }] = memory.segments() else { return None };
    // The first condition excludes length 0 and an overflow of the sums below.
    if (start.raw() | len.wrapping_sub(1)) >> ADDRESS_BITS != 0 || !device.is_coherent() {
        return None;
    }
    let pages = WholePages::around(&PhysSegment { start, len });
    if pages.end.raw() - pages.start.raw() > SmallMappings::MAX_BYTES {
        return None;
    }
    // SAFETY: the `StreamMemory` owns its whole pages. The stream drops it after the unmap has returned it,
    // and leaks it if the IOMMU does not confirm the invalidation.
    let mapped = unsafe { device.domain().map_run(&pages, device.mask(), direction.device_writes()) };
    let at = mapped?.start();
    let start = at + start.raw() % PAGE_SIZE;
    // SAFETY: the memory was just mapped at this range; `map` creates the only stream of it.
    Some(unsafe { StreamMapping::new(AddrRange::new(start, start + len), direction) })
}

/// The slow path of [`map`].
#[inline(never)] // Keeps its stack frame and saved registers out of the fast path.
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
    iommu::leak(memory, len, error);
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
        // The segments meet at page boundaries, so this is the sum of their pages.
        len: (offset + bytes).next_multiple_of(PAGE_SIZE),
        align: alignment(longest),
        mask: device.mask(),
        placement: MapPlacement::Whole,
        mapping: mapping(direction, device.domain().device_memory(MemoryType::WriteBack)),
    };
    // SAFETY: as in `map_fast_path`; `refuse` leaks the memory of a failed map that is not invalidated.
    let pages = unsafe { device.domain().map(segments.iter().map(WholePages::around), &request) }?;
    let tag = DebugTag::new("stream", offset + bytes, Some(device.name()));
    debug::mapping_added(&tag, device.domain().key(), pages);
    let start = pages.start() + offset;
    // SAFETY: the memory was just mapped at this range; `map_slow_path` creates the only stream of it.
    Ok(unsafe { StreamMapping::new(AddrRange::new(start, start + bytes), direction) })
}

impl Device {
    fn sync_caches(&self, memory: &dyn StreamMemory, to: SyncFor, direction: Direction) {
        if !self.is_coherent() {
            sync_caches(memory, to, direction);
        }
    }
}

// SAFETY: `Domain::unmap` returns the memory after the invalidation is complete, and leaks it otherwise.
unsafe impl StreamOps for Device {
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
        // The whole pages around the bytes. The range was mapped, so its end does not overflow.
        let start = mapping.range().start().align_down(PAGE_SIZE);
        let pages = AddrRange::new(start, Iova::new(mapping.range().end().raw().next_multiple_of(PAGE_SIZE)));
        // Unmap first: while the device can still write, speculation could fetch lines that become outdated.
        debug::mapping_removed(self.domain().key(), pages);
        let memory = self.domain().unmap(pages, memory)?;
        self.sync_caches(&*memory, SyncFor::Cpu, mapping.direction());
        Ok(memory)
    }
}

/// Returns the access rights for `direction`. `FromDevice` includes read access: stage 1 has no write-only
/// encoding.
fn mapping(direction: Direction, memory: MemoryType) -> Mapping {
    match direction {
        Direction::ToDevice => Mapping::read_only(memory),
        Direction::FromDevice | Direction::Bidirectional => Mapping::read_write(memory),
    }
}

/// The properties of a valid scatter-gather list.
struct SegmentList {
    /// The page offset of the first byte.
    offset: u64,
    /// The total length.
    bytes: u64,
    /// An upper bound of the longest segment: at least its length, and at most the next power of two.
    longest: u64,
}

/// log2 of the limit of addresses and lengths, far above all real ones.
const ADDRESS_BITS: u32 = u64::BITS - 2;

/// Checks a list in one pass.
fn check(segments: &[PhysSegment], direction: Direction, coherent: bool) -> Result<SegmentList, DmaError> {
    let Some((first, rest)) = segments.split_first() else { return Err(DmaError::ZeroLength) };
    let offset = first.start.raw() % PAGE_SIZE;
    let mut end = first.start.raw().wrapping_add(first.len);
    let (mut bytes, mut borders) = (first.len, 0);
    // The OR of all values: its highest bits are zero only if those of every segment are.
    let (mut starts, mut lasts) = (first.start.raw(), first.len.wrapping_sub(1));
    for PhysSegment { start, len } in rest {
        borders |= end | start.raw();
        end = start.raw().wrapping_add(*len);
        bytes = bytes.wrapping_add(*len);
        (starts, lasts) = (starts | start.raw(), lasts | len.wrapping_sub(1));
    }
    // If the highest bits are zero, no length was 0, and neither a sum of two values nor the total overflows.
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

/// Returns the error of a list with an empty segment, an invalid address, or a boundary inside a page.
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

/// Returns the alignment for block mappings or the contiguous hint, if the longest segment is long enough for
/// either.
fn alignment(longest: u64) -> u64 {
    let useful = [Order::BLOCK_2M, Order::CONTIGUOUS].map(Order::bytes);
    useful.into_iter().find(|&bytes| bytes <= longest).unwrap_or(PAGE_SIZE)
}

/// The whole pages around a segment of a list that passed [`check`].
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

/// The chunks of the whole pages around the segments of a list that passed [`check`].
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

/// Cache maintenance of `memory`, complete on return.
fn sync_caches(memory: &dyn StreamMemory, to: SyncFor, direction: Direction) {
    // SAFETY: whole pages of RAM owned by `memory`, which is borrowed, and cacheable in all mappings.
    unsafe { to.maintain_lines(PageChunks::new(memory.segments()), direction) };
    arch::barrier::dsb_sy();
}

/// The empty replacement of memory that was leaked after an IOMMU timeout.
struct LostMemory;

// SAFETY: there are no segments.
unsafe impl StreamMemory for LostMemory {
    fn segments(&self) -> &[PhysSegment] {
        &[]
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// Kernel memory for streaming mappings: whole lowmem frames in one or many segments.
pub struct Pages {
    frames: Frames,
    segments: Vec<PhysSegment>,
    tag: DebugTag,
}

impl Pages {
    /// Allocates `len` zero bytes in one segment.
    ///
    /// # Errors
    /// [`DmaError::ZeroLength`], [`DmaError::OutOfFrames`], [`DmaError::TooLong`].
    pub fn new(len: u64) -> Result<Box<Self>, DmaError> {
        Self::alloc(&Request { contiguous: true, ..Request::new(len.div_ceil(PAGE_SIZE)) }, len)
    }

    /// Allocates `len` zero bytes, one segment per page.
    ///
    /// # Errors
    /// [`DmaError::ZeroLength`], [`DmaError::OutOfFrames`], [`DmaError::OutOfHeap`].
    pub fn scattered(len: u64) -> Result<Box<Self>, DmaError> {
        Self::alloc(&Request { largest: Order::PAGE, ..Request::new(len.div_ceil(PAGE_SIZE)) }, len)
    }

    fn alloc(request: &Request<'_>, len: u64) -> Result<Box<Self>, DmaError> {
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
        // SAFETY: the frames were just allocated.
        unsafe { tag.write_canary(pages.frames.chunks(), MemoryType::WriteBack) };
        Ok(Box::new(pages))
    }

    /// The tag in reports of the checking build.
    pub fn tag(&self) -> &DebugTag {
        &self.tag
    }

    /// Returns the bytes of segment `index` through the linear map.
    pub fn segment_bytes(&mut self, index: usize) -> Option<&mut [u8]> {
        let segment = self.segments.get(index)?;
        let start = arch::pointer::to::<u8>(linear::address_of(segment.start));
        // SAFETY: lowmem frames owned by this value, in the linear map until they are freed, which the borrow
        // prevents; initialised with zeroes.
        Some(unsafe { core::slice::from_raw_parts_mut(start, segment.len as usize) })
    }
}

// SAFETY: whole frames, owned by this value and freed only when it is dropped.
unsafe impl StreamMemory for Pages {
    fn segments(&self) -> &[PhysSegment] {
        &self.segments
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        if self.segments.len() == 1 { self.segment_bytes(0) } else { None }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: owned until they are freed below.
        unsafe { self.tag.check_canary(self.frames.chunks(), MemoryType::WriteBack) };
        self.frames.free_to(&mut zones::FrameAllocator::with_owner(LastOwner::Stream));
    }
}
