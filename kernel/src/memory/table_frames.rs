//! Frames for page tables (kernel, programs, SMMU): lowmem, accessed through the linear map.
//!
//! The first tables are those that map the linear map itself. Their frames come from a pool: one chunk that
//! the early tables map at its linear-map address. The rest of the pool serves later allocations.

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{linear, zones};
use crate::perf_counters::{self, Gauge, Reading};
use crate::sync::SpinLock;
use addr::{AddrRange, Asid, Chunk, KernelVa, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use arch::tlb::Level;
use core::slice;
use core::sync::atomic::{AtomicU16, AtomicU64};
use memory::OwnedChunk;
use pagetable::{Entries, TableFrame, TableMemory, TableRef};
use spin::Once;

/// The number of valid entries of each page table: one counter per frame from the lowest to the highest of
/// lowmem.
struct ValidEntryCounts {
    first: Pfn,
    counters: &'static [AtomicU16],
}

static VALID_ENTRY_COUNTS: Once<ValidEntryCounts> = Once::new();
static POOL: SpinLock<AddrRange<PhysAddr>> = SpinLock::new(AddrRange::EMPTY);
/// Tables in use.
static TABLES: Gauge = Gauge::new();

/// The size in bytes of the pool needed to map `lowmem`, including the counters.
pub fn pool_bytes(lowmem: &[AddrRange<PhysAddr>]) -> u64 {
    /// For the image, the tables above the last level, the boot CPU's private tables, and the first stacks
    /// and device registers.
    const OTHERS: u64 = 64 * PAGE_SIZE;
    let last_level: u64 = lowmem.iter().map(|range| (range.len() >> 21) + 2).sum();
    last_level * PAGE_SIZE + counter_bytes(lowmem) + OTHERS
}

fn counter_bytes(lowmem: &[AddrRange<PhysAddr>]) -> u64 {
    let span = span(lowmem);
    (span.len() / PAGE_SIZE * size_of::<AtomicU16>() as u64).next_multiple_of(PAGE_SIZE)
}

fn span(lowmem: &[AddrRange<PhysAddr>]) -> AddrRange<PhysAddr> {
    match (lowmem.first(), lowmem.last()) {
        (Some(first), Some(last)) => AddrRange::new(first.start(), last.end()),
        _ => AddrRange::EMPTY,
    }
}

/// Initializes the allocator with `pool`, which is mapped at its linear-map address and zero-filled.
///
/// # Safety
/// `pool` has at least [`pool_bytes`] bytes, has no other user, and stays mapped.
pub unsafe fn init(pool: Chunk, lowmem: &[AddrRange<PhysAddr>]) {
    let span = span(lowmem);
    let counters = arch::pointer::to::<AtomicU16>(linear::address_of(pool.start()));
    // SAFETY: the caller hands the memory over permanently; zeroes are valid counters; `pool_bytes` includes
    // this length.
    let counters = unsafe { slice::from_raw_parts(counters, (span.len() / PAGE_SIZE) as usize) };
    VALID_ENTRY_COUNTS.call_once(|| ValidEntryCounts { first: Pfn::containing(span.start()), counters });
    *POOL.lock() = AddrRange::new(pool.start() + counter_bytes(lowmem), pool.range().end());
}

/// Allocates a zero-filled frame for a table.
pub fn alloc() -> Option<TableFrame> {
    if debug::fail_point(FailPoint::Tables) {
        return None;
    }
    let table = match alloc_from_pool() {
        Some(table) => table,
        None => {
            let frame = zones::alloc_zeroed_page()?.release().start();
            // SAFETY: the released page owned the frame.
            unsafe { TableFrame::adopt(frame) }
        }
    };
    perf_counters::count_table_allocation();
    TABLES.add(1);
    Some(table)
}

fn alloc_from_pool() -> Option<TableFrame> {
    let mut pool = POOL.lock();
    let table = pool.start();
    *pool = (!pool.is_empty()).then(|| AddrRange::new(table + PAGE_SIZE, pool.end()))?;
    // SAFETY: the pool owns its frames (`init`), and this one was just removed from it.
    Some(unsafe { TableFrame::adopt(table) })
}

/// The number of unused frames of the pool. The zones count them as allocated.
pub fn pool_remaining() -> u64 {
    POOL.lock().len() / PAGE_SIZE
}

/// Frees a frame from [`alloc()`].
pub fn free(table: TableFrame) {
    TABLES.sub(1);
    let frame = Chunk::page(Pfn::containing(table.release()));
    // SAFETY: the released `table` owned the frame.
    let chunk = unsafe { OwnedChunk::adopt(frame) };
    zones::free_from(chunk, LastOwner::PageTable);
}

/// The number of tables in use.
pub fn usage() -> Reading {
    TABLES.read()
}

/// The entries of a table from [`alloc()`].
pub fn entries(table: TableRef<'_>) -> &Entries {
    let address = arch::pointer::to::<Entries>(linear::address_of(table.address()));
    // SAFETY: not freed while `table` exists, and from [`alloc()`], the only source of table frames in this
    // kernel: an aligned frame of lowmem, which the linear map maps permanently; entries are atomics, so
    // concurrent accesses of a table walker and of other CPUs do not race.
    unsafe { &*address }
}

/// The counter of the table's valid entries.
pub fn valid_entries(table: TableRef<'_>) -> &'static AtomicU16 {
    let Some(counts) = VALID_ENTRY_COUNTS.get() else {
        panic!("the page table allocator is not initialized")
    };
    &counts.counters[(Pfn::containing(table.address()).raw() - counts.first.raw()) as usize]
}

/// Table memory for the MMUs of the CPUs, whose walkers snoop the caches. `F` invalidates a range in the
/// TLBs.
pub struct CpuTables<F: Fn(u64, u64)> {
    invalidate: F,
}

/// Table memory for the kernel's page tables.
pub fn kernel() -> CpuTables<impl Fn(u64, u64)> {
    CpuTables {
        invalidate: |at, len| {
            arch::tlb::kernel(AddrRange::new(KernelVa::new(at), KernelVa::new(at + len)), Level::Any);
        },
    }
}

/// Table memory for the page tables of the address space `asid`.
pub fn user(asid: Asid) -> CpuTables<impl Fn(u64, u64)> {
    CpuTables {
        invalidate: move |at, len| {
            arch::tlb::user(asid, AddrRange::new(UserVa::new(at), UserVa::new(at + len)), Level::Any);
        },
    }
}

// SAFETY: 1. the frame in the linear map, and a counter for each frame; only holders of a `TableRef` get
// them;
// 2. `alloc` returns zeroed frames, and the MMUs snoop; 3. DSB ISHST, and the TLB invalidation of `kernel` or
// `user`, complete on return; the field is private, so that there is no other.
unsafe impl<F: Fn(u64, u64)> TableMemory for CpuTables<F> {
    fn allocate(&mut self) -> Option<TableFrame> {
        alloc()
    }

    fn release(&mut self, table: TableFrame) {
        free(table);
    }

    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries {
        entries(table)
    }

    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16 {
        valid_entries(table)
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        perf_counters::count_descriptor_stores(entries.len());
    }

    fn order_before_link(&self) {
        arch::barrier::dsb_ishst();
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        (self.invalidate)(at, len);
    }
}
