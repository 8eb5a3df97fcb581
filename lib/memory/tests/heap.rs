//! Heap use of the zones' accounting, against the reserve that the kernel keeps for it.

use addr::{AddrRange, Order, PhysAddr};
use memory::{FrameSource, Reach, Zones};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size().next_power_of_two());
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// The heap bytes that `work` allocates, including those that it frees again.
fn cost<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATED.get();
    let result = work();
    (ALLOCATED.get() - before, result)
}

/// The kernel's heap reserve.
const RESERVE: usize = 256 << 10;
/// The zone operations that the kernel does under one hold of the lock, which the reserve has to serve.
const OPERATIONS: usize = 64;

#[test]
fn operations_under_one_lock_fit_the_heap_reserve() {
    let mut zones = Zones::new(PhysAddr::new(0));
    // SAFETY: the frames are only numbers; the test accesses no memory through them.
    unsafe { zones.add(AddrRange::new(PhysAddr::new(1 << 30), PhysAddr::new(3 << 30))) };
    const PAGES: usize = if cfg!(miri) { 1 << 9 } else { 1 << 19 };
    let mut costs = Vec::with_capacity(2 * PAGES);
    let mut pages = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let (bytes, page) = cost(|| zones.alloc(Order::PAGE, Reach::HIGH).unwrap());
        costs.push(bytes);
        pages.push(page);
    }
    // Every second page first, for the longest free list; then the rest, for the merges.
    let (even, odd): (Vec<_>, Vec<_>) = pages.into_iter().partition(|p| p.chunk().first().raw() % 2 == 0);
    for page in even.into_iter().chain(odd) {
        costs.push(cost(|| zones.free(page)).0);
    }
    let highest = costs.windows(OPERATIONS).map(|costs| costs.iter().sum::<usize>()).max().unwrap();
    assert!(highest > 0 && highest <= RESERVE, "{highest} bytes");
}
