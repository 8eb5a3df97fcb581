//! What the books cost on the heap, against what they promise.

use addr::{AddrRange, Iova, Order, PAGE_SIZE, PhysAddr};
use memory::{FrameSource, RangeAllocator, Reach, Zones};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size().next_power_of_two());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Heap bytes that `work` allocates, whether or not it frees them again.
fn cost<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATED.get();
    let result = work();
    (ALLOCATED.get() - before, result)
}

#[test]
fn no_zone_operation_needs_more_than_promised() {
    let mut zones = Zones::new(PhysAddr::new(0));
    // SAFETY: the frames are numbers; the test reaches no memory through them.
    unsafe { zones.add(AddrRange::new(PhysAddr::new(1 << 30), PhysAddr::new(3 << 30))) };
    let bound = zones.heap_per_operation();
    assert!(bound < 128 << 10, "{bound}");
    let mut highest = 0;
    const PAGES: usize = if cfg!(miri) { 1 << 9 } else { 1 << 19 };
    let mut pages = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let (bytes, page) = cost(|| zones.take(Order::PAGE, Reach::HIGH).unwrap());
        highest = highest.max(bytes);
        pages.push(page);
    }
    // Every second page first, for the longest free list; then the rest, for the merges.
    let (even, odd): (Vec<_>, Vec<_>) = pages.into_iter().partition(|p| p.chunk().first().raw() % 2 == 0);
    for page in even.into_iter().chain(odd) {
        highest = highest.max(cost(|| zones.give(page)).0);
    }
    assert!(highest > 0 && highest <= bound, "{highest} of {bound}");
}

#[test]
fn no_range_operation_needs_more_than_promised() {
    let space = AddrRange::new(Iova::new(0), Iova::new(1 << 40));
    let mut ranges = RangeAllocator::new(space);
    let any = Iova::new(u64::MAX);
    let count = if cfg!(miri) { 300 } else { 10_000 };
    let taken: Vec<_> = (0..count).map(|_| ranges.alloc(PAGE_SIZE, PAGE_SIZE, any).unwrap()).collect();
    for range in taken.into_iter().step_by(2) {
        let bound = ranges.heap_per_operation();
        let bytes = cost(|| ranges.free(range).unwrap()).0;
        assert!(bytes <= bound, "{bytes} of {bound}");
    }
}
