//! The kernel heap: `buddy_system_allocator` over a static start and, from then on, chunks of lowmem.
//!
//! The frame allocators keep their books on this heap, so a zone operation may allocate here while its lock is
//! held, when the heap cannot grow. Hence the reserve: whoever is about to lock the zones calls
//! [`ensure_reserve`] first, and ordinary allocations never dip into it - they grow the heap instead.

use crate::debug::{self, FailPoint};
use crate::memory::heap_cache::HeapCache;
use crate::memory::zones;
use crate::percpu::{self, MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use addr::{Chunk, Order};
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Largest block: 2^32 bytes.
const ORDERS: usize = 33;
/// What the heap starts with, before there are zones: enough to read a device tree and to set the zones up.
const INITIAL: usize = 1 << 20;
/// Free bytes that only zone operations may use; see [`ensure_reserve`].
const RESERVE: usize = 256 << 10;
/// The heap grows by chunks of this order (1 MiB), or larger ones for larger requests.
const GROWTH: Order = match Order::new(8) {
    Ok(order) => order,
    Err(_) => unreachable!(),
};

#[repr(align(4096))]
struct InitialHeap(UnsafeCell<[u8; INITIAL]>);
// SAFETY: touched only through the heap, once it has been added to it.
unsafe impl Sync for InitialHeap {}
static INITIAL_HEAP: InitialHeap = InitialHeap(UnsafeCell::new([0; INITIAL]));

static HEAP: SpinLock<Heap<ORDERS>> = SpinLock::new(Heap::new());
/// What each CPU keeps in front of it. Others want it only when the heap is used up.
static CACHES: PerCpu<SpinLock<HeapCache>> =
    PerCpu::new([const { SpinLock::new(HeapCache::new()) }; MAX_CPUS]);
/// A copy of the heap's free bytes (without recent blocks) that can be read without its lock.
static FREE: AtomicUsize = AtomicUsize::new(0);
/// Whether interrupt handlers are watched.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Bytes taken from lowmem so far.
static GROWN: AtomicUsize = AtomicUsize::new(0);
/// The chunks of lowmem that the heap took, the last one first.
static GROWTHS: SpinLock<Option<&'static Growth>> = SpinLock::new(None);

/// A chunk that the heap took, and those that it took before.
struct Growth {
    chunk: Chunk,
    before: Option<&'static Self>,
}

struct KernelHeap;

#[cfg_attr(target_os = "none", global_allocator)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "host tests use the host's allocator"))]
static KERNEL_HEAP: KernelHeap = KernelHeap;

// SAFETY: blocks come from `Heap`, which hands out each at most once, aligned and sized as the layout asks; a null
// result says that there is none.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check_context(layout);
        let whole = block_of(layout);
        // In a statement of its own: the lock is free again when the heap is asked.
        let kept = CACHES.this().lock().pop(whole.size());
        match kept {
            Some(block) => block.as_ptr(),
            None => allocate(whole),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        check_context(layout);
        let Some(block) = NonNull::new(block) else { return };
        let whole = block_of(layout);
        // SAFETY: the caller got this block from `alloc` with this layout and gives it back; `alloc` took the whole
        // block from this heap, at one time or another with the same layout.
        unsafe {
            let kept = CACHES.this().lock().push(block, whole.size());
            if !kept {
                give_back(block, whole);
            }
        }
    }
}

/// A block from the heap itself, which grows if it has to.
#[cold]
#[inline(never)]
fn allocate(whole: Layout) -> *mut u8 {
    if zones::locked_here() {
        return take(whole);
    }
    if FREE.load(Ordering::Relaxed) < RESERVE.saturating_add(whole.size()) {
        grow(whole);
    }
    let block = take(whole);
    if block.is_null() && (grow(whole) || gather()) { take(whole) } else { block }
}

fn take(whole: Layout) -> *mut u8 {
    let mut heap = HEAP.lock();
    let block = heap.alloc(whole).map_or(ptr::null_mut(), NonNull::as_ptr);
    note_free(&heap);
    block
}

/// Gives a block to the heap itself.
///
/// # Safety
///
/// The block was taken from the heap with this layout, and is nobody's.
unsafe fn give_back(block: NonNull<u8>, whole: Layout) {
    let mut heap = HEAP.lock();
    // SAFETY: the caller's word.
    unsafe { heap.dealloc(block, whole) };
    note_free(&heap);
}

/// Gives what all CPUs keep to the heap, for merging. Whether there was something.
fn gather() -> bool {
    let mut some = false;
    for cache in CACHES.iter() {
        let mut cache = cache.lock();
        while let Some((block, size)) = cache.pop_any() {
            let Ok(whole) = Layout::from_size_align(size, size) else {
                unreachable!("a block of {size} bytes")
            };
            // SAFETY: the block was kept as a whole one of this size when its owner gave it back.
            unsafe { give_back(block, whole) };
            some = true;
        }
    }
    some
}

/// The whole block that the heap gives for `layout`: a power of two, aligned to its size.
fn block_of(layout: Layout) -> Layout {
    let size = layout.size().max(layout.align()).max(size_of::<usize>());
    let whole = size.checked_next_power_of_two().and_then(|size| Layout::from_size_align(size, size).ok());
    // A layout has at most `isize::MAX` bytes; what is rounded up past that, the heap refuses as it is.
    whole.unwrap_or(layout)
}

/// From now on an interrupt handler that allocates or frees is found out: the self-tests want to know.
pub fn watch_handlers() {
    WATCHED.store(true, Ordering::Relaxed);
}

#[inline]
fn check_context(layout: Layout) {
    if WATCHED.load(Ordering::Relaxed) {
        assert!(!percpu::in_interrupt(), "an interrupt handler allocates or frees {layout:?}");
    }
}

fn note_free(heap: &Heap<ORDERS>) {
    FREE.store(heap.stats_total_bytes() - heap.stats_alloc_actual(), Ordering::Relaxed);
}

/// Gives the static start to the heap. Called once, before the first allocation.
pub fn init() {
    let start = INITIAL_HEAP.0.get() as usize;
    let mut heap = HEAP.lock();
    assert_eq!(heap.stats_total_bytes(), 0, "the heap is initialized twice");
    // SAFETY: the array is static and, as this is the first call, nothing else refers to it.
    unsafe { heap.add_to_heap(start, start + INITIAL) };
    note_free(&heap);
}

/// Makes sure that a zone operation finds [`RESERVE`] bytes; says whether it does. Must not be called with the
/// zones locked.
pub fn ensure_reserve() -> bool {
    FREE.load(Ordering::Relaxed) >= RESERVE || zones::locked_here() || grow(Layout::new::<u64>())
}

/// Bytes of the block that a `T` takes, also in an `Arc`.
pub const fn block_bytes<T>() -> usize {
    (size_of::<T>() + 2 * size_of::<usize>()).next_power_of_two()
}

/// Whether `bytes` can be allocated without touching the reserve, after taking more lowmem if need be. Asked before
/// work that is done for a program: an allocation that fails inside it would be the end of the kernel.
pub fn has_room(bytes: usize) -> bool {
    !debug::fail_point(FailPoint::Heap)
        && (FREE.load(Ordering::Relaxed) >= RESERVE.saturating_add(bytes) || grow(Layout::new::<u64>()))
}

/// Adds a chunk of lowmem that can hold `layout`. `false` when there is none.
fn grow(layout: Layout) -> bool {
    let frames = (layout.size().max(layout.align()) as u64).div_ceil(addr::PAGE_SIZE);
    let order = Order::covering(frames).unwrap_or(Order::MAX).max(GROWTH);
    let Some(chunk) = zones::take_for_heap(order, has_some) else { return false };
    let start = super::linear::address_of(chunk.start()).raw() as usize;
    let mut heap = HEAP.lock();
    // SAFETY: the chunk is ours for good, in the linear map, and nothing else refers to it.
    unsafe { heap.add_to_heap(start, start + chunk.bytes() as usize) };
    GROWN.fetch_add(chunk.bytes() as usize, Ordering::Relaxed);
    note_growth(&mut heap, chunk);
    note_free(&heap);
    true
}

/// Writes down, on the heap itself, that it took `chunk`.
fn note_growth(heap: &mut Heap<ORDERS>, chunk: Chunk) {
    let Ok(place) = heap.alloc(Layout::new::<Growth>()) else {
        unreachable!("no room in a heap that has grown")
    };
    let place = place.cast::<Growth>();
    let mut growths = GROWTHS.lock();
    // SAFETY: the block is new, large enough and aligned, and never given back.
    *growths = Some(unsafe {
        place.write(Growth { chunk, before: *growths });
        place.as_ref()
    });
}

/// Shows every chunk of lowmem that the heap has taken.
pub fn each_chunk(show: impl FnMut(Chunk)) {
    let last = *GROWTHS.lock();
    core::iter::successors(last, |growth| growth.before).map(|growth| growth.chunk).for_each(show);
}

/// Whether the zones can write down what they get back from a CPU's magazine.
fn has_some() -> bool {
    FREE.load(Ordering::Relaxed) >= RESERVE / 2
}

/// Bytes of the heap: in use (as blocks), and in all.
pub fn usage() -> (usize, usize) {
    let (used, all) = {
        let heap = HEAP.lock();
        (heap.stats_alloc_actual(), heap.stats_total_bytes())
    };
    let kept: usize = CACHES.iter().map(|cache| cache.lock().bytes()).sum();
    (used.saturating_sub(kept), all)
}

/// Free bytes, and bytes taken from lowmem; read without a lock.
pub fn gauges() -> (u64, u64) {
    (FREE.load(Ordering::Relaxed) as u64, grown_bytes())
}

/// Bytes of lowmem that the heap has taken.
pub fn grown_bytes() -> u64 {
    GROWN.load(Ordering::Relaxed) as u64
}
