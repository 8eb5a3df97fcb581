//! Coherent buffers: memory that a device and the CPUs use at the same time.

use super::attachment::Attachment;
use super::buffer::ChunkedBuffer;
use super::device::Device;
use super::request::MapPlacement;
use super::trace;
use crate::debug::DebugTag;
use crate::memory::heap;
use addr::{Chunk, MemoryType, Order, PAGE_SIZE};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;
use dma_api::{
    Attrs, BufferBacking, Direction, DmaBuffer, DmaError, DmaMask, DmaSpace, Stream, StreamMapError,
    StreamMemory,
};
use memory::Reach;
use memory::chunks::Request;

/// A zero-filled buffer of at least `len` bytes for `device`, in the life of a buffer (`doc/life-of-a-dma-buffer.md`)
/// steps 1 to 6. `?` undoes: what each step made is a value that takes it back when dropped.
///
/// # Errors
/// See [`DmaError`]; everything is as before. Logged unless [`Attrs::NO_WARN`].
pub fn alloc(device: &Arc<Device>, len: u64, attrs: Attrs) -> Result<Attachment, DmaError> {
    try_alloc(device, len, attrs).inspect_err(|error| {
        if !attrs.contains(Attrs::NO_WARN) {
            log::warn!("{}: no buffer of {}: {error}", device.name(), addr::Size(len));
        }
    })
}

fn try_alloc(device: &Arc<Device>, len: u64, attrs: Attrs) -> Result<Attachment, DmaError> {
    let frames = frame_count(len)?;
    if !device.mask().holds(frames * PAGE_SIZE) || !device.reaches_memory() {
        return Err(DmaError::PastMask { len, mask: device.mask() });
    }
    let memory = device.memory_type(attrs);
    let request = request(frames, attrs, device);
    let tag = DebugTag::new("buffer", len, Some(device.name()));
    let buffer = match linear_map_request(&request, attrs, memory) {
        Some(low) => ChunkedBuffer::new(&low, attrs, memory, tag)
            .or_else(|_| ChunkedBuffer::new(&request, attrs, memory, tag)),
        None => ChunkedBuffer::new(&request, attrs, memory, tag),
    }?;
    trace::record("alloc", || buffer.event().for_device(device));
    let attachment = Attachment::new(device, buffer, MapPlacement::Whole)?;
    if needs_kernel_view(device, attrs) {
        attachment.buffer().make_kernel_view()?;
    }
    Ok(attachment)
}

/// A zero-filled buffer of at least `len` bytes for devices to be named later, cacheable unless `attrs` has
/// [`Attrs::WRITE_COMBINE`].
///
/// # Errors
/// As [`alloc()`], but for what a device brings in.
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

/// Whole frames for `len` bytes.
fn frame_count(len: u64) -> Result<u64, DmaError> {
    match len.checked_next_multiple_of(PAGE_SIZE) {
        Some(0) => Err(DmaError::ZeroLength),
        Some(len) => Ok(len / PAGE_SIZE),
        None => Err(DmaError::TooLong { len }),
    }
}

/// Without IOMMU a buffer is one run within the device's reach, whatever was asked for.
fn request(frames: u64, attrs: Attrs, device: &Device) -> Request {
    let translated = device.domain().is_translated();
    Request {
        frames,
        largest: largest(attrs),
        contiguous: attrs.contains(Attrs::FORCE_CONTIGUOUS) || !translated,
        reach: Reach::ANYWHERE.up_to(device.domain().highest(device.mask())),
    }
}

fn largest(attrs: Attrs) -> Order {
    if attrs.contains(Attrs::ALLOC_SINGLE_PAGES) { Order::PAGE } else { Order::MAX }
}

/// The same request for one small chunk that the linear map has anyway, if the kernel wants to see the buffer: that
/// saves a mapping in vmalloc.
fn linear_map_request(request: &Request, attrs: Attrs, memory: MemoryType) -> Option<Request> {
    let small = request.frames <= Order::CONTIGUOUS.frames() && request.frames.is_power_of_two();
    let whole = request.contiguous || !attrs.contains(Attrs::ALLOC_SINGLE_PAGES) || request.frames == 1;
    let seen = !attrs.contains(Attrs::NO_KERNEL_MAPPING) && memory == MemoryType::WriteBack;
    (small && whole && seen).then(|| Request {
        contiguous: true,
        reach: Reach::LOW.up_to(request.reach.highest()),
        ..*request
    })
}

/// Without IOMMU the request for no mapping is ignored: nothing is saved, and drivers need not notice.
fn needs_kernel_view(device: &Device, attrs: Attrs) -> bool {
    !attrs.contains(Attrs::NO_KERNEL_MAPPING) || !device.domain().is_translated()
}

/// A device's address space in the hands of its driver.
#[derive(Clone)]
pub struct Space(Arc<Device>);

impl Space {
    /// What the driver of `device` gets.
    pub fn new(device: Arc<Device>) -> Self {
        Self(device)
    }

    /// The device.
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
        if !heap::has_room(heap::block_bytes::<Owned>()) {
            return Err(DmaError::OutOfHeap);
        }
        let attachment = alloc(&self.0, len as u64, attrs)?;
        let view = attachment.buffer().kernel_view();
        let view = view.and_then(|range| NonNull::new(range.start().raw() as *mut u8));
        let range = attachment.range();
        // SAFETY: the kernel's view covers the whole buffer, readable, writable and page-aligned, and lives as long as
        // the buffer, which the attachment holds; nobody else has either, so nobody else touches the memory.
        Ok(unsafe { DmaBuffer::new(range, view, Box::new(Owned(attachment))) })
    }

    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<dma_api::DeviceOwned>, StreamMapError> {
        super::stream::map(&self.0, memory, direction)
    }
}

/// A driver's buffer.
struct Owned(Attachment);

impl BufferBacking for Owned {
    fn chunks(&self, visit: &mut dyn FnMut(Chunk)) {
        self.0.buffer().chunks().for_each(visit);
    }
}
