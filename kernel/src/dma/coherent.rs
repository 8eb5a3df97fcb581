//! Coherent allocation: buffers that a device and the CPUs access at the same time.

use super::attachment::Attachment;
use super::buffer::ChunkedBuffer;
use super::device::Device;
use super::request::MapPlacement;
use super::trace;
use crate::debug::DebugTag;
use crate::memory::heap;
use addr::{AddrRange, Chunk, MemoryType, Order, PAGE_SIZE, PhysAddr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;
use dma_api::{
    Attrs, BufferBacking, Direction, DmaBuffer, DmaError, DmaMask, DmaSpace, Stream, StreamMapError,
    StreamMemory,
};
use memory::Reach;
use memory::chunks::Request;

/// Allocates a zero-filled buffer of at least `len` bytes and attaches it to `device`: steps 1 to 6 of
/// `doc/life-of-a-dma-buffer.md`. Each step returns a guard, so that `?` undoes the preceding ones.
///
/// # Errors
/// See [`DmaError`]; without side effects. Logged unless [`Attrs::NO_WARN`].
pub fn alloc(device: &Arc<Device>, len: u64, attrs: Attrs) -> Result<Attachment, DmaError> {
    try_alloc(device, len, attrs).inspect_err(|error| {
        if !attrs.contains(Attrs::NO_WARN) {
            log::warn!("{}: no buffer of {}: {error}", device.name(), addr::Size(len));
        }
    })
}

fn try_alloc(device: &Arc<Device>, len: u64, attrs: Attrs) -> Result<Attachment, DmaError> {
    let frames = frame_count(len)?;
    if !device.mask().holds(frames * PAGE_SIZE) {
        return Err(DmaError::PastMask { len, mask: device.mask() });
    }
    let memory = device.memory_type(attrs);
    let tag = DebugTag::new("buffer", len, Some(device.name()));
    let buffer = if device.domain().is_translated() {
        new_buffer(frames, attrs, None, memory, tag)
    } else {
        new_buffer_in_windows(device, frames, attrs, memory, tag)
    }?;
    trace::record("alloc", || buffer.event().for_device(device));
    let attachment = Attachment::new(device, buffer, MapPlacement::Whole)?;
    if needs_kernel_view(device, attrs) {
        attachment.buffer().make_kernel_view()?;
    }
    Ok(attachment)
}

/// Allocates a zero-filled buffer of at least `len` bytes without an attachment, cacheable unless `attrs`
/// contains [`Attrs::WRITE_COMBINE`].
///
/// # Errors
/// As [`alloc()`], except the errors of a mapping.
pub fn alloc_unattached(len: u64, attrs: Attrs) -> Result<Arc<ChunkedBuffer>, DmaError> {
    let frames = frame_count(len)?;
    let memory =
        if attrs.contains(Attrs::WRITE_COMBINE) { MemoryType::NonCacheable } else { MemoryType::WriteBack };
    let request = Request {
        largest: largest(attrs),
        contiguous: attrs.contains(Attrs::FORCE_CONTIGUOUS),
        ..Request::new(frames)
    };
    let buffer =
        ChunkedBuffer::new(&request, attrs, memory, DebugTag::new("dma-buf", frames * PAGE_SIZE, None))?;
    trace::record("alloc", || buffer.event());
    Ok(buffer)
}

/// Returns the number of frames of `len` bytes, rounded up.
fn frame_count(len: u64) -> Result<u64, DmaError> {
    match len.checked_next_multiple_of(PAGE_SIZE) {
        Some(0) => Err(DmaError::ZeroLength),
        Some(len) => Ok(len / PAGE_SIZE),
        None => Err(DmaError::TooLong { len }),
    }
}

/// Allocates the buffer of a device without IOMMU, in memory that it can access.
#[inline(never)] // Keeps its stack frame and saved registers out of the path with an IOMMU.
fn new_buffer_in_windows(
    device: &Device,
    frames: u64,
    attrs: Attrs,
    memory: MemoryType,
    tag: DebugTag,
) -> Result<Arc<ChunkedBuffer>, DmaError> {
    device.check_reach()?;
    let mut result = Err(DmaError::OutOfFrames { wanted: frames, had: 0 });
    for range in device.domain().reachable(device.mask()) {
        result = new_buffer(frames, attrs, Some(&range), memory, tag);
        if !matches!(result, Err(DmaError::OutOfFrames { .. })) {
            break;
        }
    }
    result
}

/// Allocates a buffer: anywhere, or contiguous inside `range`.
#[inline(always)] // Each caller has its own path: see `new_buffer_in_windows`.
fn new_buffer(
    frames: u64,
    attrs: Attrs,
    range: Option<&AddrRange<PhysAddr>>,
    memory: MemoryType,
    tag: DebugTag,
) -> Result<Arc<ChunkedBuffer>, DmaError> {
    let request = request(frames, attrs, range);
    match linear_map_request(&request, attrs, memory) {
        Some(low) => ChunkedBuffer::new(&low, attrs, memory, tag)
            .or_else(|_| ChunkedBuffer::new(&request, attrs, memory, tag)),
        None => ChunkedBuffer::new(&request, attrs, memory, tag),
    }
}

/// Returns the frame allocator's request. Without IOMMU a buffer is always contiguous, inside a `range` that
/// the device can access.
fn request(frames: u64, attrs: Attrs, range: Option<&AddrRange<PhysAddr>>) -> Request<'_> {
    Request {
        frames,
        largest: largest(attrs),
        contiguous: attrs.contains(Attrs::FORCE_CONTIGUOUS) || range.is_some(),
        reach: range.map_or(Reach::ANYWHERE, |range| Reach::ANYWHERE.within(range)),
    }
}

fn largest(attrs: Attrs) -> Order {
    if attrs.contains(Attrs::ALLOC_SINGLE_PAGES) { Order::PAGE } else { Order::MAX }
}

/// Returns the request for a single small lowmem chunk if a kernel view is needed: the linear map then
/// provides it, and no vmalloc mapping is made.
fn linear_map_request<'a>(request: &Request<'a>, attrs: Attrs, memory: MemoryType) -> Option<Request<'a>> {
    let small = request.frames <= Order::CONTIGUOUS.frames() && request.frames.is_power_of_two();
    let whole = request.contiguous || !attrs.contains(Attrs::ALLOC_SINGLE_PAGES) || request.frames == 1;
    let view = !attrs.contains(Attrs::NO_KERNEL_MAPPING) && memory == MemoryType::WriteBack;
    (small && whole && view).then(|| Request { contiguous: true, reach: request.reach.low(), ..*request })
}

/// Returns whether the buffer gets a kernel view. Without IOMMU, `NO_KERNEL_MAPPING` is ignored: it would
/// save nothing.
fn needs_kernel_view(device: &Device, attrs: Attrs) -> bool {
    !attrs.contains(Attrs::NO_KERNEL_MAPPING) || !device.domain().is_translated()
}

/// The DMA interface of a device for its driver.
#[derive(Clone)]
pub struct Space(Arc<Device>);

impl Space {
    /// Returns the interface of `device`.
    pub fn new(device: Arc<Device>) -> Self {
        Self(device)
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.0
    }
}

impl DmaSpace for Space {
    fn mask(&self) -> DmaMask {
        self.0.mask()
    }

    fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError> {
        self.0.set_mask(mask)
    }

    fn alloc(&self, len: usize, attrs: Attrs) -> Result<DmaBuffer, DmaError> {
        let attachment = alloc(&self.0, len as u64, attrs)?;
        let view = attachment.buffer().kernel_view();
        let view = view.and_then(|range| NonNull::new(range.start().raw() as *mut u8));
        let range = attachment.range();
        let owned = heap::try_box(Owned(attachment)).ok_or(DmaError::OutOfHeap)?;
        // SAFETY: the kernel view covers the whole buffer, readable, writable and page-aligned, and lives as
        // long as the buffer, which the attachment holds; there is no other reference to either, so no other
        // code accesses the memory.
        Ok(unsafe { DmaBuffer::new(range, view, owned) })
    }

    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<dma_api::DeviceOwned>, StreamMapError> {
        super::stream::map(&self.0, memory, direction)
    }
}

/// The attachment that backs a driver's buffer.
struct Owned(Attachment);

impl BufferBacking for Owned {
    fn chunks(&self, visit: &mut dyn FnMut(Chunk)) {
        self.0.buffer().chunks().for_each(visit);
    }
}
