//! The kernel heap: `buddy_system_allocator` over a static array and, later, chunks of lowmem.
//!
//! The zones keep their metadata on this heap, so they may allocate here while they are locked and the heap
//! cannot grow. Hence the reserve: [`zones::lock`] calls [`ensure_reserve`] first, and all other allocations
//! grow the heap instead of using the reserve.

use crate::debug::{self, FailPoint};
use crate::memory::heap_cache::HeapCache;
use crate::memory::zones;
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use addr::{Chunk, Order};
use alloc::alloc::alloc;
use alloc::boxed::Box;
use alloc::sync::Arc;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Largest block: 2^32 bytes.
const ORDERS: usize = 33;
/// Bytes of the static array: enough to parse the device tree and to initialize the zones.
const INITIAL_BYTES: usize = 1 << 20;
/// Free bytes that only zone operations may use; see [`ensure_reserve`].
const RESERVE_BYTES: usize = 256 << 10;
/// The heap grows by chunks of this order (1 MiB), or larger ones for larger requests.
const GROWTH_ORDER: Order = match Order::new(8) {
    Ok(order) => order,
    Err(_) => unreachable!(),
};

#[repr(align(4096))]
struct InitialHeap(UnsafeCell<[u8; INITIAL_BYTES]>);
// SAFETY: accessed only by the heap, after `init` has added it.
unsafe impl Sync for InitialHeap {}
static INITIAL_HEAP: InitialHeap = InitialHeap(UnsafeCell::new([0; INITIAL_BYTES]));

static HEAP: SpinLock<Heap<ORDERS>> = SpinLock::new(Heap::new());
static CPU_BLOCKS: PerCpu<CpuBlocks> = PerCpu::new([const { CpuBlocks::new() }; MAX_CPUS]);
/// A copy of the heap's free bytes (without cached blocks) that can be read without its lock.
static FREE: AtomicUsize = AtomicUsize::new(0);
/// Bytes allocated from lowmem.
static GROWN_BYTES: AtomicUsize = AtomicUsize::new(0);
/// The chunks of lowmem that the heap consists of, the latest first.
static LOWMEM_CHUNKS: SpinLock<Option<&'static LowmemChunk>> = SpinLock::new(None);

/// A chunk of the heap, linked to the previous one.
struct LowmemChunk {
    chunk: Chunk,
    previous: Option<&'static Self>,
}

/// The free blocks of a CPU, in front of the heap.
struct CpuBlocks {
    /// The memory of the next `Arc`; see [`try_arc`].
    reserved: ReservedBlock,
    /// Other CPUs drain it only when the heap is exhausted.
    cache: SpinLock<HeapCache>,
}

impl CpuBlocks {
    const fn new() -> Self {
        Self { reserved: ReservedBlock::new(), cache: SpinLock::new(HeapCache::new()) }
    }

    #[inline(never)] // Keeps its saved registers out of the allocation of a reserved block.
    fn allocate(&self, block_layout: Layout) -> *mut u8 {
        // In a statement of its own, so that the cache is unlocked before the heap is locked.
        let cached = self.cache.lock().pop(block_layout.size());
        match cached {
            Some(block) => block.as_ptr(),
            None => allocate(block_layout),
        }
    }
}

struct KernelHeap;

#[cfg_attr(target_os = "none", global_allocator)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "host tests use the host's allocator"))]
static KERNEL_HEAP: KernelHeap = KernelHeap;

// SAFETY: blocks come from `Heap`, which allocates each at most once, with the size and alignment of the
// layout; null means that the heap is exhausted.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        debug::heap_used(layout);
        let blocks = CPU_BLOCKS.this();
        if let Some(block) = blocks.reserved.take(layout) {
            return block.as_ptr();
        }
        blocks.allocate(block_layout_of(layout))
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        debug::heap_used(layout);
        let Some(block) = NonNull::new(block) else { return };
        let block_layout = block_layout_of(layout);
        // SAFETY: the caller frees a block that `alloc` returned for this layout, and `alloc` took the whole
        // block from this heap.
        unsafe {
            let cached = CPU_BLOCKS.this().cache.lock().push(block, block_layout.size());
            if !cached {
                free_block(block, block_layout);
            }
        }
    }
}

/// Allocates a block from the heap itself, which grows if necessary.
#[cold]
#[inline(never)]
fn allocate(block_layout: Layout) -> *mut u8 {
    if zones::locked_by_this_cpu() {
        return allocate_block(block_layout);
    }
    if FREE.load(Ordering::Relaxed) < RESERVE_BYTES.saturating_add(block_layout.size()) {
        grow(block_layout);
    }
    let block = allocate_block(block_layout);
    if block.is_null() && (grow(block_layout) || drain_caches()) {
        allocate_block(block_layout)
    } else {
        block
    }
}

fn allocate_block(block_layout: Layout) -> *mut u8 {
    let mut heap = HEAP.lock();
    let block = heap.alloc(block_layout).map_or(ptr::null_mut(), NonNull::as_ptr);
    update_free(&heap);
    block
}

/// Frees a block to the heap itself.
///
/// # Safety
/// The block was allocated from the heap with this layout, and is not used any more.
unsafe fn free_block(block: NonNull<u8>, block_layout: Layout) {
    let mut heap = HEAP.lock();
    // SAFETY: as the caller promises.
    unsafe { heap.dealloc(block, block_layout) };
    update_free(&heap);
}

/// Frees the blocks in all CPUs' caches, so that they are merged. Returns whether there were any.
fn drain_caches() -> bool {
    let mut any = false;
    for blocks in CPU_BLOCKS.iter() {
        let mut cache = blocks.cache.lock();
        while let Some((block, size)) = cache.pop_any() {
            let Ok(block_layout) = Layout::from_size_align(size, size) else {
                unreachable!("a block of {size} bytes")
            };
            // SAFETY: the owner of the block freed it to the cache with this size.
            unsafe { free_block(block, block_layout) };
            any = true;
        }
    }
    any
}

/// The layout of the block that the heap allocates for `layout`: a power of two, aligned to its size.
fn block_layout_of(layout: Layout) -> Layout {
    let size = layout.size().max(layout.align()).max(size_of::<usize>());
    let block_layout =
        size.checked_next_power_of_two().and_then(|size| Layout::from_size_align(size, size).ok());
    // A layout has at most `isize::MAX` bytes. If rounding up exceeds that, the heap fails the original
    // layout.
    block_layout.unwrap_or(layout)
}

fn update_free(heap: &Heap<ORDERS>) {
    FREE.store(heap.stats_total_bytes() - heap.stats_alloc_actual(), Ordering::Relaxed);
}

/// Adds the static array to the heap. Called once, before the first allocation.
pub fn init() {
    let start = INITIAL_HEAP.0.get() as usize;
    let mut heap = HEAP.lock();
    assert_eq!(heap.stats_total_bytes(), 0, "the heap is initialized twice");
    // SAFETY: the array is static and, as this is the first call, nothing else refers to it.
    unsafe { heap.add_to_heap(start, start + INITIAL_BYTES) };
    update_free(&heap);
}

/// Grows the heap if less than the reserve ([`RESERVE_BYTES`] bytes) is free. Returns whether the reserve is
/// available. The zones must not be locked by this CPU.
pub fn ensure_reserve() -> bool {
    FREE.load(Ordering::Relaxed) >= RESERVE_BYTES || zones::locked_by_this_cpu() || grow(Layout::new::<u64>())
}

/// Returns whether `bytes` can be allocated without the reserve; grows the heap if necessary. Called before
/// work for a program, since a failed allocation inside that work would panic.
pub fn has_room(bytes: usize) -> bool {
    !debug::fail_point(FailPoint::Heap)
        && (FREE.load(Ordering::Relaxed) >= RESERVE_BYTES.saturating_add(bytes) || grow(Layout::new::<u64>()))
}

/// Moves `value` into a `Box`; `None` without memory, also by fault injection.
pub fn try_box<T>(value: T) -> Option<Box<T>> {
    if debug::fail_point(FailPoint::Heap) {
        return None;
    }
    if size_of::<T>() == 0 {
        return Some(Box::new(value));
    }
    let block = allocate_layout(Layout::new::<T>())?.cast::<T>();
    // SAFETY: a new block with the layout of `T`, by the allocator of `Box`, which owns it from here on.
    unsafe {
        block.write(value);
        Some(Box::from_raw(block.as_ptr()))
    }
}

/// Moves `value` into an `Arc`; `None` without memory, also by fault injection.
///
/// `Arc::new` panics without memory, and that memory was free before proves nothing: it may be in smaller
/// blocks, or another CPU may allocate it. The block is therefore allocated before, and handed to the
/// allocation of `Arc::new`, which follows on this CPU: the kernel is not preemptible, and interrupt handlers
/// do not allocate.
pub fn try_arc<T>(value: T) -> Option<Arc<T>> {
    try_arc_with(|| value)
}

/// Constructs a value in the memory of an `Arc`, as [`try_arc`]. Saves a copy of the value.
#[inline]
pub fn try_arc_with<T>(value: impl FnOnce() -> T) -> Option<Arc<T>> {
    if debug::fail_point(FailPoint::Heap) {
        return None;
    }
    let is_global_allocator = cfg!(target_os = "none");
    let mut arc =
        if is_global_allocator { try_uninit_arc(&CPU_BLOCKS.this().reserved)? } else { Arc::new_uninit() };
    let Some(memory) = Arc::get_mut(&mut arc) else { unreachable!("the only reference") };
    memory.write(value());
    // SAFETY: written above.
    Some(unsafe { arc.assume_init() })
}

fn try_uninit_arc<T>(reserved: &ReservedBlock) -> Option<Arc<MaybeUninit<T>>> {
    let layout = Layout::new::<ArcMemory<T>>();
    reserved.set(allocate_layout(layout)?, layout);
    let arc = Arc::new_uninit();
    debug_assert!(reserved.is_empty(), "the memory of an Arc has another layout than {layout:?}");
    Some(arc)
}

/// A block that is reserved for the next allocation of its layout. Only its CPU accesses it.
struct ReservedBlock {
    block: AtomicPtr<u8>,
    /// 0 without a block.
    size: AtomicUsize,
    align: AtomicUsize,
}

impl ReservedBlock {
    const fn new() -> Self {
        let [size, align] = [const { AtomicUsize::new(0) }; 2];
        Self { block: AtomicPtr::new(ptr::null_mut()), size, align }
    }

    fn set(&self, block: NonNull<u8>, layout: Layout) {
        self.block.store(block.as_ptr(), Ordering::Relaxed);
        self.size.store(layout.size(), Ordering::Relaxed);
        self.align.store(layout.align(), Ordering::Relaxed);
    }

    /// Removes the block if it has this layout, which is not empty.
    #[inline]
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        if self.size.load(Ordering::Relaxed) != layout.size()
            || self.align.load(Ordering::Relaxed) != layout.align()
        {
            return None;
        }
        self.size.store(0, Ordering::Relaxed);
        NonNull::new(self.block.load(Ordering::Relaxed))
    }

    fn is_empty(&self) -> bool {
        self.size.load(Ordering::Relaxed) == 0
    }
}

/// Allocates a block, which must not be empty.
fn allocate_layout(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: not empty.
    NonNull::new(unsafe { alloc(layout) })
}

/// The memory of an `Arc<T>`: two counts and the value.
#[repr(C)]
struct ArcMemory<T> {
    _counts: [usize; 2],
    _value: T,
}

/// Adds a chunk of lowmem that can hold `layout`. Returns `false` if lowmem is exhausted.
fn grow(layout: Layout) -> bool {
    let frames = (layout.size().max(layout.align()) as u64).div_ceil(addr::PAGE_SIZE);
    let order = Order::covering(frames).unwrap_or(Order::MAX).max(GROWTH_ORDER);
    let Some(chunk) = zones::alloc_for_heap(order, has_half_reserve) else { return false };
    let start = super::linear::address_of(chunk.start()).raw() as usize;
    let mut heap = HEAP.lock();
    // SAFETY: the heap owns the chunk permanently; the linear map maps it, and nothing else refers to it.
    unsafe { heap.add_to_heap(start, start + chunk.bytes() as usize) };
    GROWN_BYTES.fetch_add(chunk.bytes() as usize, Ordering::Relaxed);
    record_chunk(&mut heap, chunk);
    update_free(&heap);
    true
}

/// Records, on the heap itself, that `chunk` is part of the heap.
fn record_chunk(heap: &mut Heap<ORDERS>, chunk: Chunk) {
    let Ok(node) = heap.alloc(Layout::new::<LowmemChunk>()) else {
        unreachable!("the heap is exhausted right after it has grown")
    };
    let node = node.cast::<LowmemChunk>();
    let mut chunks = LOWMEM_CHUNKS.lock();
    // SAFETY: the block is new, large enough and aligned, and never freed.
    *chunks = Some(unsafe {
        node.write(LowmemChunk { chunk, previous: *chunks });
        node.as_ref()
    });
}

/// Calls `visit` with every chunk of lowmem that the heap consists of.
pub fn each_chunk(visit: impl FnMut(Chunk)) {
    let last = *LOWMEM_CHUNKS.lock();
    core::iter::successors(last, |link| link.previous).map(|link| link.chunk).for_each(visit);
}

/// Returns whether the heap has memory for the zones' metadata when a CPU's magazine is drained.
fn has_half_reserve() -> bool {
    FREE.load(Ordering::Relaxed) >= RESERVE_BYTES / 2
}

/// The heap's used bytes (in whole blocks), and its total bytes.
pub fn usage() -> (usize, usize) {
    let (used, total) = {
        let heap = HEAP.lock();
        (heap.stats_alloc_actual(), heap.stats_total_bytes())
    };
    let cached: usize = CPU_BLOCKS.iter().map(|blocks| blocks.cache.lock().bytes()).sum();
    (used.saturating_sub(cached), total)
}

/// Free bytes and bytes allocated from lowmem, read without a lock.
pub fn gauges() -> (u64, u64) {
    (FREE.load(Ordering::Relaxed) as u64, grown_bytes())
}

/// Bytes that the heap allocated from lowmem.
pub fn grown_bytes() -> u64 {
    GROWN_BYTES.load(Ordering::Relaxed) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use std::alloc::System;

    std::thread_local! {
        /// The layout of the latest allocation of the thread.
        static LATEST: Cell<Option<Layout>> = const { Cell::new(None) };
        /// The number of allocations until the thread's heap is exhausted.
        static REMAINING: Cell<usize> = const { Cell::new(usize::MAX) };
        /// The reserved block of the thread.
        static RESERVED: ReservedBlock = const { ReservedBlock::new() };
    }

    struct TestAllocator;

    #[global_allocator]
    static ALLOCATOR: TestAllocator = TestAllocator;

    // SAFETY: blocks come from `System`, also the reserved one, which has the layout.
    unsafe impl GlobalAlloc for TestAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            LATEST.set(Some(layout));
            if let Some(block) = RESERVED.with(|reserved| reserved.take(layout)) {
                return block.as_ptr();
            }
            let Some(remaining) = REMAINING.get().checked_sub(1) else { return ptr::null_mut() };
            REMAINING.set(remaining);
            // SAFETY: the contract of this function.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the contract of this function.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[repr(align(64))]
    struct AlignedByte(#[expect(dead_code, reason = "only its layout matters")] u8);

    fn check_layout<T>(value: T) {
        let arc = Arc::new(value);
        assert_eq!(LATEST.get(), Some(Layout::new::<ArcMemory<T>>()));
        drop(arc);
    }

    #[test]
    fn memory_of_an_arc_is_two_counts_and_the_value() {
        check_layout(0u8);
        check_layout([0u8; 3001]);
        check_layout(AlignedByte(0));
        check_layout(());
    }

    /// Calls `f` while the heap has `count` blocks.
    fn with_blocks<T>(count: usize, f: impl FnOnce() -> T) -> T {
        REMAINING.set(count);
        let result = f();
        REMAINING.set(usize::MAX);
        result
    }

    #[test]
    fn arc_takes_the_reserved_block_or_fails() {
        let [some, none] =
            [1, 0].map(|count| with_blocks(count, || RESERVED.with(try_uninit_arc::<[u64; 6]>)));
        assert!(some.is_some() && none.is_none());
    }

    #[test]
    fn reserved_block_is_for_its_layout_only() {
        let reserved = ReservedBlock::new();
        let block = NonNull::<u64>::dangling().cast();
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        reserved.set(block, layout(64, 8));
        let others = [layout(32, 8), layout(128, 8), layout(64, 16)].map(|other| reserved.take(other));
        assert_eq!((others, reserved.is_empty()), ([None; 3], false));
        let taken = [reserved.take(layout(64, 8)), reserved.take(layout(64, 8))];
        assert_eq!((taken, reserved.is_empty()), ([Some(block), None], true));
    }

    #[test]
    fn box_is_made_of_new_memory_or_fails() {
        assert_eq!(try_box(7u64).as_deref(), Some(&7));
        let (none, empty) = with_blocks(0, || (try_box(7u64), try_box(())));
        assert!(none.is_none() && empty.is_some());
    }
}
