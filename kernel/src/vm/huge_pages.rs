//! Huge pages (`MAP_HUGETLB`): frames that are reserved when they are mapped, so that no access fails for
//! want of memory. There is no pool beyond the reservations: Linux's surplus pages.
//!
//! # Locks
//!
//! The lock of the pages follows that of an address space.

use super::pages::{self, RecordKind};
use crate::memory::{heap, window, zones};
use crate::sched::Mutex;
use abi::Errno;
use addr::{AddrRange, Chunk, Pfn, PhysAddr};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use memory::{OwnedChunk, Zone};
use program::{HugePageSize, PageIndex};

/// The number of reserved pages of each size that are not mapped yet.
static RESERVED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// The huge pages of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HugePageCounts {
    /// All.
    pub total: u64,
    /// Of these, those that are not mapped yet.
    pub reserved: u64,
}

/// Returns the counts of the huge pages of `size`.
pub fn counts(size: HugePageSize) -> HugePageCounts {
    let blocks = size.bytes() / HugePageSize::Size2M.bytes();
    let total = pages::huge_block_count(size).div_ceil(blocks);
    HugePageCounts { total, reserved: RESERVED[size as usize].load(Ordering::Relaxed) }
}

/// The huge pages of a mapping. A private mapping takes each page once; the pages of a shared one belong to
/// this object as well, and stay until it is dropped.
pub struct HugePages {
    size: HugePageSize,
    is_shared: bool,
    content: Mutex<HugePageContent>,
}

struct HugePageContent {
    size: HugePageSize,
    reserved: Vec<OwnedChunk>,
    /// The pages of a shared mapping, by index, each by its first frame.
    pages: PageIndex<Pfn>,
}

impl HugePages {
    /// Reserves `count` pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(size: HugePageSize, count: u64, is_shared: bool) -> Result<Arc<Self>, Errno> {
        let mut content = HugePageContent { size, reserved: Vec::new(), pages: PageIndex::new() };
        let free: u64 = [Zone::Low, Zone::High].map(|zone| zones::stats(zone).free()).iter().sum();
        if count > free * addr::PAGE_SIZE / size.bytes() {
            return Err(Errno::ENOMEM);
        }
        content.reserved.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..count {
            content.reserved.push(pages::alloc_block(Some(size)).map_err(|_| Errno::ENOMEM)?);
            RESERVED[size as usize].fetch_add(1, Ordering::Relaxed);
        }
        heap::try_arc(Self { size, is_shared, content: Mutex::new(content) }).ok_or(Errno::ENOMEM)
    }

    pub fn size(&self) -> HugePageSize {
        self.size
    }

    /// Whether writes are visible to all mappings.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns page `index`, zeroed when it is first used, with an owner for the page table entry that the
    /// caller stores.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn page(&self, index: u64) -> Result<Chunk, Errno> {
        let mut content = self.content.lock();
        let existing = content.pages.get(index).map(|first| self.range(first));
        let page = match existing {
            Some(page) => page,
            None => {
                let page = content.take()?;
                if self.is_shared {
                    content.pages.insert(index, Pfn::containing(page.start())).inspect_err(|_| {
                        // SAFETY: the owner of `take`; no entry maps the page.
                        unsafe { pages::release(page, RecordKind::Block) };
                    })?;
                }
                page
            }
        };
        if self.is_shared {
            // SAFETY: the locked object owns the page.
            unsafe { pages::share_block(page) }.map_err(|_| Errno::ENOMEM)?;
        }
        Chunk::of_range(page).next().ok_or(Errno::ENOMEM)
    }

    fn range(&self, first: Pfn) -> AddrRange<PhysAddr> {
        AddrRange::new(first.start(), first.start() + self.size.bytes())
    }
}

impl HugePageContent {
    /// Takes a reserved page, or allocates one, and zeroes it.
    fn take(&mut self) -> Result<AddrRange<PhysAddr>, Errno> {
        let mut page = match self.reserved.pop() {
            Some(page) => {
                RESERVED[self.size as usize].fetch_sub(1, Ordering::Relaxed);
                page
            }
            None => pages::alloc_block(Some(self.size)).map_err(|_| Errno::ENOMEM)?,
        };
        window::zero(&mut page);
        Ok(page.release().range())
    }
}

impl Drop for HugePageContent {
    fn drop(&mut self) {
        RESERVED[self.size as usize].fetch_sub(self.reserved.len() as u64, Ordering::Relaxed);
        self.reserved.drain(..).for_each(pages::free_unmapped_block);
        while let Some((_, first)) = self.pages.remove_first(0..u64::MAX) {
            let page = AddrRange::new(first.start(), first.start() + self.size.bytes());
            // SAFETY: the object owned the page, and no entry of the kernel maps it.
            unsafe { pages::release(page, RecordKind::Block) };
        }
    }
}
