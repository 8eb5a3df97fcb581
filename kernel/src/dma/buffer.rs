//! A buffer: chunks and a memory type, until its last view is gone.
//!
//! Whoever sees the buffer holds an `Arc` of it: attachments, programs' mappings, file descriptors, drivers. So they
//! may go in any order, and the frames go back when the last has gone.

use super::counters;
use super::frames;
use super::trace::{self, Event};
use crate::debug::{DebugTag, LastOwner};
use crate::memory::vmalloc::{self, VMALLOC};
use crate::memory::{heap, layout, linear, window, zones};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, PAGE_SIZE};
use alloc::sync::Arc;
use dma_api::{Attrs, Direction, DmaError};
use memory::chunks::Request;
use memory::{Frames, OwnedChunk};
use pagetable::Mapping;
use spin::Once;

/// Frames that belong together, zero-filled at first.
///
/// All mappings of it have its memory type; while it is non-cacheable, its low frames are not in the linear map.
#[derive(Debug)]
pub struct ChunkedBuffer {
    frames: Frames,
    attrs: Attrs,
    memory: MemoryType,
    view: Once<BufferMapping>,
    tag: DebugTag,
}

/// The kernel's mapping.
#[derive(Debug)]
enum BufferMapping {
    /// One low chunk has it anyway.
    Linear(AddrRange<KernelVa>),
    Vmalloc(vmalloc::KernelMapping),
}

impl ChunkedBuffer {
    /// Takes the frames, removes their cacheable alias if they become non-cacheable, and fills them with zeroes.
    ///
    /// # Errors
    /// As [`frames::alloc`]; everything is as before.
    pub(super) fn new(
        request: &Request,
        attrs: Attrs,
        memory: MemoryType,
        tag: DebugTag,
    ) -> Result<Arc<Self>, DmaError> {
        // An `Arc` that finds no room panics.
        if !heap::has_room(heap::block_bytes::<Self>()) {
            return Err(DmaError::OutOfHeap);
        }
        let mut buffer = Arc::new(Self { frames: Frames::new(), attrs, memory, view: Once::new(), tag });
        // In place: moving the list about would cost more than finding a chunk.
        let Some(this) = Arc::get_mut(&mut buffer) else { unreachable!("nobody else has seen it") };
        frames::alloc(request, &mut this.frames)?;
        // From here on, dropping the buffer is the undo.
        this.count(counters::Gauge::add);
        match memory {
            MemoryType::WriteBack => window::zero_all(&mut this.frames),
            // SAFETY: the frames were just taken, so that nothing else uses them; `drop` restores the alias.
            _ => unsafe {
                this.chunks().filter(|&chunk| is_low(chunk)).for_each(|chunk| linear::remove_alias(chunk));
                window::zero_all_non_cacheable(&mut this.frames);
            },
        }
        tag.write_canary(buffer.chunks(), memory);
        Ok(buffer)
    }

    /// The name in reports of the checking build.
    pub fn tag(&self) -> &DebugTag {
        &self.tag
    }

    /// Bytes, whole pages.
    pub fn len(&self) -> u64 {
        self.frames.bytes()
    }

    /// Always false: no buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How every mapping of it has to be.
    pub fn memory(&self) -> MemoryType {
        self.memory
    }

    /// What was asked for.
    pub fn attrs(&self) -> Attrs {
        self.attrs
    }

    /// The chunks in order, the largest first.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Clone {
        self.frames.chunks()
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.frames.chunk_count()
    }

    /// The length of its largest chunk in bytes: the alignment at which blocks fit everywhere.
    pub fn alignment(&self) -> u64 {
        self.chunks().next().map_or(PAGE_SIZE, Chunk::bytes)
    }

    /// The kernel's mapping, if there is one.
    pub fn kernel_view(&self) -> Option<AddrRange<KernelVa>> {
        self.view.get().map(|view| match view {
            BufferMapping::Linear(range) => *range,
            BufferMapping::Vmalloc(mapped) => mapped.range(),
        })
    }

    /// Makes the kernel's mapping, if there is none yet.
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
        // SAFETY: the buffer owns the chunks, drops the mapping before them, and all its mappings have its memory type.
        let mapped = unsafe { VMALLOC.map(self.chunks(), align, mapping) };
        mapped.map(BufferMapping::Vmalloc).map_err(|error| match error {
            vmalloc::VmallocError::OutOfRange(_) => DmaError::OutOfVmalloc { len: self.len() },
            vmalloc::VmallocError::Map(_) => DmaError::OutOfTables,
        })
    }

    /// The chunk, if it is the only one and the linear map shows it with the buffer's memory type.
    fn only_linear_chunk(&self) -> Option<Chunk> {
        let first = self.chunks().next()?;
        (self.frames.chunk_count() == 1 && self.memory == MemoryType::WriteBack && is_low(first))
            .then_some(first)
    }

    /// Makes what a device that does not snoop wrote visible to CPUs, or what CPUs wrote visible to such a device. A
    /// non-cacheable buffer needs neither.
    pub fn sync(&self, to: SyncFor, direction: Direction) {
        if self.memory == MemoryType::WriteBack {
            // SAFETY: the buffer's own chunks, write-back as just checked.
            unsafe { to.maintain_lines(self.chunks(), direction) };
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

    /// Says in the trace that a program has mapped it.
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
        self.tag.check_canary(self.frames.chunks(), self.memory);
        self.count(counters::Gauge::sub);
        // The kernel's mapping first: no frame gets its cacheable alias back, or another owner, while it is there.
        self.view = Once::new();
        if self.memory == MemoryType::WriteBack {
            self.frames.free_to(&mut zones::FrameAllocator::with_owner(LastOwner::Buffer));
        } else {
            self.frames.drain().for_each(free_non_cacheable);
        }
    }
}

/// Gives back a chunk that was non-cacheable. A low one gets its alias back first; the next owner counts on it.
fn free_non_cacheable(chunk: OwnedChunk) {
    if is_low(chunk.chunk()) {
        // SAFETY: `new` removed the alias; every other mapping ended with the buffer.
        unsafe { linear::restore_alias(chunk.chunk()) };
    }
    zones::free_from(chunk, LastOwner::Buffer);
}

fn is_low(chunk: Chunk) -> bool {
    chunk.start() < layout().low_end
}

/// Who owns memory that changes hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncFor {
    /// The CPUs.
    Cpu,
    /// A device that does not see the CPUs' caches.
    Device,
}

impl SyncFor {
    /// The maintenance of `chunks`, which are write-back memory, when they go to this side; complete after the caller's
    /// barrier.
    ///
    /// Towards the CPUs the lines are dropped, since speculation may have fetched them while the device was writing.
    /// They are cleaned too, which does nothing to the lines of a well-behaved owner: dropping dirty ones could bring
    /// back what the frame held before it was zeroed.
    ///
    /// # Safety
    /// As for [`window::with_chunks`].
    pub(super) unsafe fn maintain_lines(
        self,
        chunks: impl Iterator<Item = Chunk> + Clone,
        direction: Direction,
    ) {
        match self {
            // For every direction: a dirty line would be written over what the device writes, at any time.
            // SAFETY: passed on to the caller.
            Self::Device => unsafe {
                window::with_chunks(chunks, MemoryType::WriteBack, arch::cache::clean_lines);
            },
            // SAFETY: passed on to the caller.
            Self::Cpu if direction.device_writes() => unsafe {
                window::with_chunks(chunks, MemoryType::WriteBack, arch::cache::clean_invalidate_lines);
            },
            Self::Cpu => {}
        }
    }
}
