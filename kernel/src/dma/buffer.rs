//! A buffer: chunks and a memory type.
//!
//! Attachments, programs' mappings, file descriptors and drivers each hold an `Arc` of the buffer. They may
//! be dropped in any order; the last one frees the frames.

use super::counters;
use super::frames;
use super::trace::{self, Event};
use crate::debug::{DebugTag, LastOwner};
use crate::memory::vmalloc::{self, VMALLOC};
use crate::memory::{heap, layout, linear, window, zones};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, PAGE_SIZE};
use alloc::sync::Arc;
use core::ops::Range;
use dma_api::{Attrs, Direction, DmaError};
use memory::chunks::Request;
use memory::{Frames, OwnedChunk};
use pagetable::Mapping;
use program::chunk_range;
use spin::Once;

/// A list of chunks, zero-filled at allocation.
///
/// All mappings of the buffer have its memory type. The lowmem frames of a non-cacheable buffer are not in
/// the linear map.
#[derive(Debug)]
pub struct ChunkedBuffer {
    frames: Frames,
    attrs: Attrs,
    memory: MemoryType,
    view: Once<BufferMapping>,
    tag: DebugTag,
}

/// The kernel view of a buffer.
#[derive(Debug)]
enum BufferMapping {
    /// The linear map of a single lowmem chunk.
    Linear(AddrRange<KernelVa>),
    Vmalloc(vmalloc::KernelMapping),
}

impl ChunkedBuffer {
    /// Allocates the frames, removes the linear alias of non-cacheable ones, and zeroes them.
    ///
    /// # Errors
    /// As [`frames::alloc`], without side effects.
    pub(super) fn new(
        request: &Request<'_>,
        attrs: Attrs,
        memory: MemoryType,
        tag: DebugTag,
    ) -> Result<Arc<Self>, DmaError> {
        let buffer = || Self { frames: Frames::new(), attrs, memory, view: Once::new(), tag };
        let mut buffer = heap::try_arc_with(buffer).ok_or(DmaError::OutOfHeap)?;
        // Filled in place: a move of the inline list costs more than the allocation of a cached chunk.
        let Some(this) = Arc::get_mut(&mut buffer) else { unreachable!("the only reference") };
        frames::alloc(request, &mut this.frames)?;
        // From here on, dropping the buffer undoes every step.
        this.count(counters::Gauge::add);
        match memory {
            MemoryType::WriteBack => window::zero_all(&mut this.frames),
            // SAFETY: the frames were just allocated, so nothing else uses them; `drop` restores the alias.
            _ => unsafe {
                this.chunks().filter(|&chunk| is_low(chunk)).for_each(|chunk| linear::remove_alias(chunk));
                window::zero_all_non_cacheable(&mut this.frames);
            },
        }
        // SAFETY: nothing else uses the frames yet, and `memory` is the type of all their mappings.
        unsafe { tag.write_canary(buffer.chunks(), memory) };
        Ok(buffer)
    }

    /// The tag in reports of the checking build.
    pub fn tag(&self) -> &DebugTag {
        &self.tag
    }

    /// The length in bytes, a multiple of the page size.
    pub fn len(&self) -> u64 {
        self.frames.bytes()
    }

    /// Always false: no buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The memory type of all mappings.
    pub fn memory(&self) -> MemoryType {
        self.memory
    }

    /// The attributes of the request.
    pub fn attrs(&self) -> Attrs {
        self.attrs
    }

    /// Returns the chunks in order of descending size.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Clone {
        self.frames.chunks()
    }

    /// The chunks of the bytes `part`, which are whole pages; those across its ends are split.
    pub fn chunks_of(&self, part: &Range<u64>) -> impl Iterator<Item = Chunk> + Clone {
        chunk_range(self.chunks(), part.start, part.end - part.start)
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.frames.chunk_count()
    }

    /// The length of the largest chunk in bytes: the alignment at which every chunk can use block mappings.
    pub fn alignment(&self) -> u64 {
        self.chunks().next().map_or(PAGE_SIZE, Chunk::bytes)
    }

    /// Returns the kernel view, if there is one.
    pub fn kernel_view(&self) -> Option<AddrRange<KernelVa>> {
        self.view.get().map(|view| match view {
            BufferMapping::Linear(range) => *range,
            BufferMapping::Vmalloc(mapped) => mapped.range(),
        })
    }

    /// Creates the kernel view unless it exists.
    ///
    /// # Errors
    /// [`DmaError::OutOfVmalloc`], [`DmaError::OutOfTables`].
    pub fn make_kernel_view(&self) -> Result<AddrRange<KernelVa>, DmaError> {
        let view = self.view.try_call_once(|| self.new_view())?;
        Ok(match view {
            BufferMapping::Linear(range) => *range,
            BufferMapping::Vmalloc(mapped) => mapped.range(),
        })
    }

    fn new_view(&self) -> Result<BufferMapping, DmaError> {
        if let Some(chunk) = self.only_linear_chunk() {
            return Ok(BufferMapping::Linear(linear::range_of(chunk.range())));
        }
        let mapping = Mapping::read_write(self.memory);
        let align = self.alignment().min(addr::Order::BLOCK_2M.bytes());
        // SAFETY: the buffer owns the chunks, drops the mapping before them, and all its mappings have its
        // memory type.
        let mapped = unsafe { VMALLOC.map(self.chunks(), align, mapping) };
        mapped.map(BufferMapping::Vmalloc).map_err(|error| match error {
            vmalloc::VmallocError::OutOfRange(_) => DmaError::OutOfVmalloc { len: self.len() },
            vmalloc::VmallocError::Map(_) => DmaError::OutOfTables,
        })
    }

    /// Returns the only chunk if the linear map contains it with the buffer's memory type.
    fn only_linear_chunk(&self) -> Option<Chunk> {
        let first = self.chunks().next()?;
        (self.frames.chunk_count() == 1 && self.memory == MemoryType::WriteBack && is_low(first))
            .then_some(first)
    }

    /// Cache maintenance for a device that does not snoop: makes its writes visible to CPUs, or the CPUs'
    /// writes visible to it. No operation for a non-cacheable buffer.
    pub fn sync(&self, to: SyncFor, direction: Direction) {
        self.sync_part(&(0..self.len()), to, direction);
    }

    /// [`ChunkedBuffer::sync`] of the bytes `part`, which are whole pages.
    pub(super) fn sync_part(&self, part: &Range<u64>, to: SyncFor, direction: Direction) {
        if self.memory == MemoryType::WriteBack {
            // SAFETY: the buffer owns the chunks; their memory type is write-back by the check above.
            unsafe { to.maintain_lines(self.chunks_of(part), direction) };
            arch::barrier::dsb_sy();
        }
    }

    fn count(&self, change: impl Fn(&counters::Gauge, u64)) {
        let low_end = layout().low_end;
        let low: u64 = self.chunks().filter(|chunk| chunk.start() < low_end).map(Chunk::bytes).sum();
        for (gauge, bytes) in [(&counters::LOW_BYTES, low), (&counters::HIGH_BYTES, self.len() - low)] {
            if bytes > 0 {
                change(gauge, bytes);
            }
        }
    }

    /// Traces an `mmap` by a program.
    pub fn trace_mmap(&self) {
        trace::record("mmap", || self.event());
    }

    pub(super) fn event(&self) -> Event<'static> {
        let (len, attrs, chunks) = (self.len(), self.attrs, self.chunk_count());
        Event { device: None, iova: None, len, attrs, chunks }
    }
}

impl Drop for ChunkedBuffer {
    fn drop(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        trace::record("free", || self.event());
        // SAFETY: the last reference is being dropped, so nothing else uses the frames, except for a kernel
        // view of the same memory type.
        unsafe { self.tag.check_canary(self.frames.chunks(), self.memory) };
        self.count(counters::Gauge::sub);
        // The kernel view first: while it exists, no frame may regain its linear alias or get another owner.
        self.view = Once::new();
        if self.memory == MemoryType::WriteBack {
            self.frames.free_to(&mut zones::FrameAllocator::with_owner(LastOwner::Buffer));
        } else {
            self.frames.drain().for_each(free_non_cacheable);
        }
    }
}

/// Frees a non-cacheable chunk. A lowmem chunk first regains its linear alias, which the next owner requires.
fn free_non_cacheable(chunk: OwnedChunk) {
    if is_low(chunk.chunk()) {
        // SAFETY: `new` removed the alias; all other mappings were removed before the buffer was dropped.
        unsafe { linear::restore_alias(chunk.chunk()) };
    }
    zones::free_from(chunk, LastOwner::Buffer);
}

fn is_low(chunk: Chunk) -> bool {
    chunk.start() < layout().low_end
}

/// The next owner of memory in a cache synchronisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncFor {
    Cpu,
    /// A device that does not snoop the CPU caches.
    Device,
}

impl SyncFor {
    /// Cache maintenance of `chunks`, which must be write-back memory, before this owner uses them. Complete
    /// after the caller's barrier.
    ///
    /// For the CPUs the lines are invalidated, since speculation may have fetched them while the device was
    /// writing. They are cleaned as well, which has no effect without dirty lines: invalidating a dirty line
    /// without a clean could expose the frame's content from before it was zeroed.
    ///
    /// # Safety
    /// As for [`window::with_chunks`].
    pub(super) unsafe fn maintain_lines(
        self,
        chunks: impl Iterator<Item = Chunk> + Clone,
        direction: Direction,
    ) {
        match self {
            // For every direction: eviction of a dirty line would overwrite data of the device.
            // SAFETY: the caller's obligation.
            Self::Device => unsafe {
                window::with_chunks(chunks, MemoryType::WriteBack, arch::cache::clean_lines);
            },
            // SAFETY: the caller's obligation.
            Self::Cpu if direction.device_writes() => unsafe {
                window::with_chunks(chunks, MemoryType::WriteBack, arch::cache::clean_invalidate_lines);
            },
            Self::Cpu => {}
        }
    }
}
