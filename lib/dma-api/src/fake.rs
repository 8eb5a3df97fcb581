//! A device's address space on the host, for tests of drivers.
//!
//! Coherent buffers are one piece of memory for both sides. Streaming memory has two copies, one for each side,
//! that only a sync makes equal: a forgotten one shows.

use crate::{
    Attrs, BufferBacking, Device, Direction, DmaBuffer, DmaError, DmaMask, DmaSpace, KernelView, PhysSegment,
    Stream, StreamMapError, StreamMapping, StreamMemory, StreamOps,
};
use addr::{AddrRange, Chunk, Iova, PAGE_SIZE, Pfn, PhysAddr};
use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The fake device went where nothing is mapped for it, or not in this direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FakeFault(
    /// The first address that was not allowed.
    pub Iova,
);

/// Page-aligned memory on the host's heap, zero-filled.
struct HostMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for HostMemory {}

impl HostMemory {
    fn new(len: usize) -> Self {
        let Ok(layout) = Layout::from_size_align(len, PAGE_SIZE as usize) else { panic!("{len:#x} bytes") };
        assert!(len > 0);
        // SAFETY: the layout has a size.
        let base = unsafe { alloc_zeroed(layout) };
        Self { base: NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    fn view(&self) -> KernelView<'_> {
        // SAFETY: allocated in `new`, page-aligned, this long, until drop, which the borrow prevents; nobody
        // makes references, and all users hold the space's lock or run on the test's thread.
        unsafe { KernelView::new(self.base, self.layout.size()) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and not freed before.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// What the device sees from one address on.
struct FakeRegion {
    memory: HostMemory,
    direction: Direction,
}

struct FakeState {
    regions: BTreeMap<Iova, FakeRegion>,
    next: Iova,
    mask: DmaMask,
    failure: Option<(usize, DmaError)>,
}

impl FakeState {
    fn insert(&mut self, memory: HostMemory, direction: Direction) -> Result<Iova, DmaError> {
        if let Some((left, error)) = self.failure {
            self.failure = left.checked_sub(1).map(|left| (left, error));
            if left == 0 {
                return Err(error);
            }
        }
        let (at, len) = (self.next, memory.layout.size() as u64);
        if !self.mask.reaches(at, len) {
            return Err(DmaError::OutOfIova { len, highest: self.mask.highest() });
        }
        // A page between two regions, so that running over the end is a fault.
        self.next = at + len.next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
        self.regions.insert(at, FakeRegion { memory, direction });
        Ok(at)
    }

    fn region(&self, at: Iova, len: usize) -> Result<(&FakeRegion, usize), FakeFault> {
        let (start, region) = self.regions.range(..=at).next_back().ok_or(FakeFault(at))?;
        let (offset, size) = ((at.raw() - start.raw()) as usize, region.memory.layout.size());
        if offset >= size {
            return Err(FakeFault(at));
        }
        if len > size - offset {
            return Err(FakeFault(*start + size as u64));
        }
        Ok((region, offset))
    }
}

/// The shared half of a space and of all that came from it.
#[derive(Clone)]
struct SpaceHandle(Arc<Mutex<FakeState>>);

impl SpaceHandle {
    /// A test that failed elsewhere must not hide its reason behind a poisoned lock.
    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device's address space with a fake device: [`device_read`](Self::device_read) and
/// [`device_write`](Self::device_write) do what the device would.
#[derive(Clone)]
pub struct FakeSpace(SpaceHandle);

impl Default for FakeSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeSpace {
    /// An empty space with a mask of 32 bits.
    pub fn new() -> Self {
        let (regions, mask, next) = (BTreeMap::new(), DmaMask::BITS_32, Iova::new(PAGE_SIZE));
        Self(SpaceHandle(Arc::new(Mutex::new(FakeState { regions, next, mask, failure: None }))))
    }

    /// Lets `successes` requests pass and the one after them fail with `error`.
    pub fn fail_after(&self, successes: usize, error: DmaError) {
        self.0.lock().failure = Some((successes, error));
    }

    /// How many buffers and mappings are live.
    pub fn mapping_count(&self) -> usize {
        self.0.lock().regions.len()
    }

    /// The device reads memory.
    ///
    /// # Errors
    /// [`FakeFault`] when it may not; nothing is read.
    pub fn device_read(&self, at: Iova, bytes: &mut [u8]) -> Result<(), FakeFault> {
        let state = self.0.lock();
        let (region, offset) = state.region(at, bytes.len())?;
        if !region.direction.device_reads() {
            return Err(FakeFault(at));
        }
        region.memory.view().read_bytes(offset, bytes);
        Ok(())
    }

    /// The device writes memory.
    ///
    /// # Errors
    /// [`FakeFault`] when it may not; nothing is written.
    pub fn device_write(&self, at: Iova, bytes: &[u8]) -> Result<(), FakeFault> {
        let state = self.0.lock();
        let (region, offset) = state.region(at, bytes.len())?;
        if !region.direction.device_writes() {
            return Err(FakeFault(at));
        }
        region.memory.view().write_bytes(offset, bytes);
        Ok(())
    }
}

impl DmaSpace for FakeSpace {
    fn mask(&self) -> DmaMask {
        self.0.lock().mask
    }

    fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError> {
        self.0.lock().mask = mask;
        Ok(())
    }

    fn alloc(&self, len: usize, attrs: Attrs) -> Result<DmaBuffer, DmaError> {
        if len == 0 {
            return Err(DmaError::ZeroLength);
        }
        let len = len.next_multiple_of(PAGE_SIZE as usize);
        let memory = HostMemory::new(len);
        let view = (!attrs.contains(Attrs::NO_KERNEL_MAPPING)).then_some(memory.base);
        let at = self.0.lock().insert(memory, Direction::Bidirectional)?;
        let backing = Box::new(Attached { at, len, space: self.0.clone() });
        let iova = AddrRange::new(at, at + len as u64);
        // SAFETY: the region's memory is page-aligned, `len` bytes long, and stays in the space until `Attached` is
        // dropped; besides the buffer only the fake device reaches it.
        Ok(unsafe { DmaBuffer::new(iova, view, backing) })
    }

    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<Device>, StreamMapError> {
        let len: usize = memory.segments().iter().map(|segment| segment.len as usize).sum();
        if len == 0 {
            return Err(StreamMapError { memory, error: DmaError::ZeroLength });
        }
        let at = match self.0.lock().insert(HostMemory::new(len), direction) {
            Ok(at) => at,
            Err(error) => return Err(StreamMapError { memory, error }),
        };
        let (ops, mut memory) = (Arc::new(self.0.clone()), memory);
        // SAFETY: the region at `at` was just made for this memory, and the stream below is the only one of it.
        let mapping = unsafe { StreamMapping::new(AddrRange::new(at, at + len as u64), direction) };
        ops.sync_for_device(mapping, &mut *memory);
        Ok(Stream::new(ops, mapping, memory))
    }
}

/// A region that ends with this value.
struct Attached {
    at: Iova,
    len: usize,
    space: SpaceHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.space.lock().regions.remove(&self.at);
    }
}

impl BufferBacking for Attached {
    fn chunks(&self, visit: &mut dyn FnMut(Chunk)) {
        // As if physical memory were where the device sees it.
        (0..self.len as u64).step_by(PAGE_SIZE as usize).for_each(|offset| {
            visit(Chunk::page(Pfn::containing(PhysAddr::new(self.at.raw() + offset))));
        });
    }
}

impl SpaceHandle {
    fn both(
        &self,
        mapping: StreamMapping,
        memory: &mut dyn StreamMemory,
        copy: impl FnOnce(KernelView<'_>, &mut [u8]),
    ) {
        let state = self.lock();
        if let (Some(region), Some(bytes)) = (state.regions.get(&mapping.range().start()), memory.bytes()) {
            copy(region.memory.view(), bytes);
        }
    }
}

impl StreamOps for SpaceHandle {
    fn sync_for_cpu(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory) {
        if mapping.direction().device_writes() {
            self.both(mapping, memory, |device, cpu| device.read_bytes(0, cpu));
        }
    }
    fn sync_for_device(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory) {
        if mapping.direction().device_reads() {
            self.both(mapping, memory, |device, cpu| device.write_bytes(0, cpu));
        }
    }
    fn unmap(
        &self,
        mapping: StreamMapping,
        mut memory: Box<dyn StreamMemory>,
    ) -> Result<Box<dyn StreamMemory>, DmaError> {
        self.sync_for_cpu(mapping, &mut *memory);
        self.lock().regions.remove(&mapping.range().start());
        Ok(memory)
    }
}

/// Host memory that can be lent to the fake device.
pub struct FakeMemory {
    bytes: Vec<u8>,
    segment: PhysSegment,
}

impl FakeMemory {
    /// With this content.
    pub fn new(bytes: &[u8]) -> Box<Self> {
        let bytes = Vec::from(bytes);
        let start = PhysAddr::new(bytes.as_ptr().addr() as u64);
        let segment = PhysSegment { start, len: bytes.len() as u64 };
        Box::new(Self { bytes, segment })
    }
    /// `len` zeroes.
    pub fn zeroed(len: usize) -> Box<Self> {
        Self::new(&vec![0; len])
    }
}

// SAFETY: the vector's memory is its own and does not move, since it never grows; the fake never goes to the physical
// address, which is only a number here, so the rest of its pages does not matter.
unsafe impl StreamMemory for FakeMemory {
    fn segments(&self) -> &[PhysSegment] {
        core::slice::from_ref(&self.segment)
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.bytes)
    }
}
