//! Memory for an SMMU: page-table frames of paging domains, and contiguous regions for queues and stream
//! tables.

use super::TABLE_PAGES;
use crate::debug::LastOwner;
use crate::memory::{linear, table_frames, window, zones};
use crate::perf_counters;
use addr::{Chunk, Order, PAGE_SIZE, Pfn};
use core::slice;
use core::sync::atomic::{AtomicU16, AtomicU64};
use drivers::region::{Region, RegionSource};
use memory::{OwnedChunk, Reach};
use pagetable::{Entries, TableFrame, TableMemory, TableRef};

/// Page-table frames. The driver sends the invalidations that their reuse needs.
pub struct Tables;

// SAFETY: 1. and 2. as `table_frames`; 3. the driver wraps this value and does all of it for the SMMU; an
// invalidation here does not return.
unsafe impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<TableFrame> {
        let table = table_frames::alloc()?;
        TABLE_PAGES.add(1);
        Some(table)
    }

    fn release(&mut self, table: TableFrame) {
        TABLE_PAGES.sub(1);
        table_frames::free(table);
    }

    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries {
        table_frames::entries(table)
    }

    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16 {
        table_frames::valid_entries(table)
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        perf_counters::count_descriptor_stores(entries.len());
    }

    fn order_before_link(&self) {
        arch::barrier::dsb_ishst();
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        unreachable!("invalidation of {at:#x}+{len:#x} outside of the driver")
    }
}

/// Lowmem for queues, stream tables and context descriptors, and for the tables of an interrupt translation
/// service.
pub struct Regions;

impl RegionSource for Regions {
    fn allocate(&mut self, bytes: u64) -> Option<Region> {
        let order = Order::covering(bytes.div_ceil(PAGE_SIZE))?;
        let mut chunk = zones::alloc(order, Reach::LOW)?;
        window::zero(&mut chunk);
        let chunk = chunk.release();
        let words = arch::pointer::to::<AtomicU64>(linear::address_of(chunk.start()));
        // SAFETY: the chunk is owned until `release` gets the region back, in the linear map, aligned and
        // zeroed.
        Some(unsafe { Region::new(chunk.start(), slice::from_raw_parts(words, (bytes / 8) as usize)) })
    }

    fn release(&mut self, region: Region) {
        let order = Order::covering(region.bytes().div_ceil(PAGE_SIZE));
        let chunk = order.and_then(|order| Chunk::new(Pfn::containing(region.start()), order));
        match chunk {
            Some(chunk) => {
                // SAFETY: `region` owns the chunk that `allocate` released into it, and ends here.
                let chunk = unsafe { OwnedChunk::adopt(chunk) };
                zones::free_from(chunk, LastOwner::Iommu);
            }
            None => panic!("{region:?} was not allocated here"),
        }
    }
}
