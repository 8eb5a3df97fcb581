//! A fake DMA address space on the host, for tests of drivers.
//!
//! A coherent buffer is one block of memory for both sides. Streaming memory has one copy per side, which
//! only a sync makes equal, so that tests detect a missing sync.

use crate::{
    Attrs, BufferBacking, DeviceOwned, Direction, DmaBuffer, DmaError, DmaMask, DmaSpace, KernelView,
    PhysSegment, Stream, StreamMapError, StreamMapping, StreamMemory, StreamOps,
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

/// An access of the fake device to an address that is not mapped, or not in this direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FakeFault(
    /// The first faulting address.
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
        // SAFETY: the size is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        Self { base: NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    fn view(&self) -> KernelView<'_> {
        // SAFETY: allocated in `new`, page-aligned, of this length, until drop, which the borrow prevents; no
        // references are made, and all users hold the space's lock or run on the test's thread.
        unsafe { KernelView::new(self.base, self.layout.size()) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and not freed before.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Memory mapped for the fake device.
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
        // A guard page between regions, so that an overrun faults.
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

/// The state shared by a space and its buffers and mappings.
#[derive(Clone)]
struct SpaceHandle(Arc<Mutex<FakeState>>);

impl SpaceHandle {
    /// Ignores poisoning, which would hide the reason of the first failure.
    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A DMA address space with a fake device: [`device_read`](Self::device_read) and
/// [`device_write`](Self::device_write) are its accesses.
#[derive(Clone)]
pub struct FakeSpace(SpaceHandle);

impl Default for FakeSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeSpace {
    /// An empty space with a 32-bit mask.
    pub fn new() -> Self {
        let (regions, mask, next) = (BTreeMap::new(), DmaMask::BITS_32, Iova::new(PAGE_SIZE));
        Self(SpaceHandle(Arc::new(Mutex::new(FakeState { regions, next, mask, failure: None }))))
    }

    /// Makes the next `successes` requests succeed and the one after them fail with `error`.
    pub fn fail_after(&self, successes: usize, error: DmaError) {
        self.0.lock().failure = Some((successes, error));
    }

    /// The number of buffers and streaming mappings.
    pub fn mapping_count(&self) -> usize {
        self.0.lock().regions.len()
    }

    /// Reads memory as the device.
    ///
    /// # Errors
    /// [`FakeFault`]; nothing is read.
    pub fn device_read(&self, at: Iova, bytes: &mut [u8]) -> Result<(), FakeFault> {
        let state = self.0.lock();
        let (region, offset) = state.region(at, bytes.len())?;
        if !region.direction.device_reads() {
            return Err(FakeFault(at));
        }
        region.memory.view().read_bytes(offset, bytes);
        Ok(())
    }

    /// Writes memory as the device.
    ///
    /// # Errors
    /// [`FakeFault`]; nothing is written.
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
        let backing = Box::new(FakeBacking { at, len, space: self.0.clone() });
        let iova = AddrRange::new(at, at + len as u64);
        // SAFETY: the region's memory is page-aligned, has `len` bytes, and stays in the space until
        // `FakeBacking` is dropped; only the buffer and the fake device access it.
        Ok(unsafe { DmaBuffer::new(iova, view, backing) })
    }

    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<DeviceOwned>, StreamMapError> {
        let len: usize = memory.segments().iter().map(|segment| segment.len as usize).sum();
        if len == 0 {
            return Err(StreamMapError { memory, error: DmaError::ZeroLength });
        }
        let at = match self.0.lock().insert(HostMemory::new(len), direction) {
            Ok(at) => at,
            Err(error) => return Err(StreamMapError { memory, error }),
        };
        let (ops, mut memory) = (Arc::new(self.0.clone()), memory);
        // SAFETY: the region at `at` was just made for this memory, and the stream below is the only one of
        // it.
        let mapping = unsafe { StreamMapping::new(AddrRange::new(at, at + len as u64), direction) };
        ops.sync_for_device(mapping, &mut *memory);
        Ok(Stream::new(ops, mapping, memory))
    }
}

/// Removes its region on drop.
struct FakeBacking {
    at: Iova,
    len: usize,
    space: SpaceHandle,
}

impl Drop for FakeBacking {
    fn drop(&mut self) {
        self.space.lock().regions.remove(&self.at);
    }
}

impl BufferBacking for FakeBacking {
    fn chunks(&self, visit: &mut dyn FnMut(Chunk)) {
        // With physical addresses equal to the device's addresses.
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

// SAFETY: the device of this space accesses copies of the memory.
unsafe impl StreamOps for SpaceHandle {
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

/// Host memory that can be mapped for the fake device.
pub struct FakeMemory {
    bytes: Vec<u8>,
    segment: PhysSegment,
}

impl FakeMemory {
    /// Memory with this content.
    pub fn new(bytes: &[u8]) -> Box<Self> {
        let bytes = Vec::from(bytes);
        let start = PhysAddr::new(bytes.as_ptr().addr() as u64);
        let segment = PhysSegment { start, len: bytes.len() as u64 };
        Box::new(Self { bytes, segment })
    }
    /// `len` bytes of zeroes.
    pub fn zeroed(len: usize) -> Box<Self> {
        Self::new(&vec![0; len])
    }
}

// SAFETY: the vector owns its memory, which does not move, since it never grows; the fake never accesses the
// physical address, which is only a number here, so the rest of its pages does not matter.
unsafe impl StreamMemory for FakeMemory {
    fn segments(&self) -> &[PhysSegment] {
        core::slice::from_ref(&self.segment)
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.bytes)
    }
}
