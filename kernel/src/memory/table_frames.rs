//! Frames for page tables: the kernel's, the programs' and the SMMU's, all from lowmem and written through the
//! linear map.
//!
//! The first tables build the linear map itself, so they cannot come from it. They come from a pool: one chunk that
//! boot maps early, at the address the linear map will have it. What the first tables leave of the pool serves the
//! next ones.

use crate::debug::{self, FailPoint, LastOwner};
use crate::memory::{linear, zones};
use crate::perf_counters;
use crate::sync::SpinLock;
use addr::{AddrRange, Asid, Chunk, KernelVa, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use arch::tlb::Level;
use core::slice;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use memory::OwnedChunk;
use pagetable::{Entries, TableFrame, TableMemory};
use spin::Once;

/// One counter for each frame of lowmem between the lowest and the highest: how many valid entries a table has.
struct ValidEntryCounts {
    first: Pfn,
    counters: &'static [AtomicU16],
}

static VALID_ENTRY_COUNTS: Once<ValidEntryCounts> = Once::new();
static POOL: SpinLock<AddrRange<PhysAddr>> = SpinLock::new(AddrRange::EMPTY);
/// Tables in use, and the most there were at one time.
static IN_USE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Bytes of pool needed to map `lowmem`, the counters included.
pub fn pool_bytes(lowmem: &[AddrRange<PhysAddr>]) -> u64 {
    /// For the image, the tables above the last level, the boot CPU's own, and the first stacks and registers.
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

/// Starts with `pool`, which is mapped at its linear address and zero-filled.
///
/// # Safety
///
/// `pool` has at least [`pool_bytes`] bytes that nothing else uses, and stays mapped.
pub unsafe fn init(pool: Chunk, lowmem: &[AddrRange<PhysAddr>]) {
    let span = span(lowmem);
    let counters = arch::pointer::to::<AtomicU16>(linear::address_of(pool.start()));
    // SAFETY: the caller lends the memory for good; zeroes are valid counters; the length is what `pool_bytes` counts.
    let counters = unsafe { slice::from_raw_parts(counters, (span.len() / PAGE_SIZE) as usize) };
    VALID_ENTRY_COUNTS.call_once(|| ValidEntryCounts { first: Pfn::containing(span.start()), counters });
    *POOL.lock() = AddrRange::new(pool.start() + counter_bytes(lowmem), pool.range().end());
}

/// A zero-filled frame for a table.
pub fn alloc() -> Option<TableFrame> {
    if debug::fail_point(FailPoint::Tables) {
        return None;
    }
    let table = match alloc_from_pool() {
        Some(table) => table,
        None => {
            let frame = zones::alloc_zeroed_page()?.release().start();
            // SAFETY: the page that was released here was its owner.
            unsafe { TableFrame::adopt(frame) }
        }
    };
    perf_counters::count_table_allocation();
    let now = IN_USE.fetch_add(1, Ordering::Relaxed) + 1;
    PEAK.fetch_max(now, Ordering::Relaxed);
    Some(table)
}

fn alloc_from_pool() -> Option<TableFrame> {
    let mut pool = POOL.lock();
    let table = pool.start();
    *pool = (!pool.is_empty()).then(|| AddrRange::new(table + PAGE_SIZE, pool.end()))?;
    // SAFETY: `init` was given the pool's frames, and this one has just left the pool.
    Some(unsafe { TableFrame::adopt(table) })
}

/// Frames of the pool that are still unused. The zones count them as given out.
pub fn pool_remaining() -> u64 {
    POOL.lock().len() / PAGE_SIZE
}

/// Gives a frame from [`alloc`] back.
pub fn free(table: TableFrame) {
    IN_USE.fetch_sub(1, Ordering::Relaxed);
    let frame = Chunk::page(Pfn::containing(table.release()));
    // SAFETY: `table`, which ends here, owned the frame.
    let chunk = unsafe { OwnedChunk::adopt(frame) };
    zones::free_from(chunk, LastOwner::PageTable);
}

/// Tables in use now, and the most there were.
pub fn usage() -> (u64, u64) {
    (IN_USE.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed))
}

/// The entries of a table from [`alloc`].
///
/// # Safety
/// `table` came from [`alloc`], and is not given back while the result is used.
pub unsafe fn entries(table: PhysAddr) -> &'static Entries {
    let address = arch::pointer::to::<Entries>(linear::address_of(table));
    // SAFETY: tables are frames of lowmem, which the linear map has whole, aligned and for good; entries are atomics,
    // so that sharing them with a walker and with other CPUs is no race.
    unsafe { &*address }
}

/// The counter that belongs to a table.
pub fn valid_entries(table: PhysAddr) -> &'static AtomicU16 {
    let Some(counts) = VALID_ENTRY_COUNTS.get() else { panic!("no table counters yet") };
    &counts.counters[(Pfn::containing(table).raw() - counts.first.raw()) as usize]
}

/// Table memory for the CPUs' own walkers, which snoop. `F` forgets a range in the TLBs.
pub struct CpuTables<F: Fn(u64, u64)> {
    invalidate: F,
}

/// Table memory for the kernel's own tree.
pub fn kernel() -> CpuTables<impl Fn(u64, u64)> {
    CpuTables {
        invalidate: |at, len| {
            arch::tlb::kernel(AddrRange::new(KernelVa::new(at), KernelVa::new(at + len)), Level::Any);
        },
    }
}

/// Table memory for the tree of the address space `asid`.
pub fn user(asid: Asid) -> CpuTables<impl Fn(u64, u64)> {
    CpuTables {
        invalidate: move |at, len| {
            arch::tlb::user(asid, AddrRange::new(UserVa::new(at), UserVa::new(at + len)), Level::Any);
        },
    }
}

impl<F: Fn(u64, u64)> TableMemory for CpuTables<F> {
    fn allocate(&mut self) -> Option<TableFrame> {
        alloc()
    }

    fn release(&mut self, table: TableFrame) {
        free(table);
    }

    fn entries(&self, table: PhysAddr) -> &Entries {
        // SAFETY: the page table passes its own tables alone.
        unsafe { entries(table) }
    }

    fn valid_entries(&self, table: PhysAddr) -> &AtomicU16 {
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
