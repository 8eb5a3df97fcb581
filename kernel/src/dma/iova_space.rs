//! The lock-protected part of a translated domain: the IOVA allocator and the page tables.

use super::request::MapRequest;
use crate::debug::{self, FailPoint};
use crate::iommu::{Smmu, Tables};
use crate::memory;
use ::memory::{RangeAllocator, RangeError};
use addr::{AddrRange, Chunk, FrameRun, Iova, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr};
use alloc::vec::Vec;
use core::iter;
use core::ops::ControlFlow;
use dma_api::DmaError;
use drivers::iommu::Stale;
use drivers::smmu::{self, DomainMapError, PinnedTable};
use pagetable::{Leaf, Mapping};

/// The 2 MiB below 4 GiB, kept free for doorbells of MSIs: a device with 32-bit MSI addresses reaches them,
/// and they take nothing from the space of a device with a smaller mask. A doorbell is not mapped at its
/// physical address, which can be anywhere: that of `virt` is 0x0809_0040.
pub(super) const MSI_DOORBELLS: [Iova; 2] = [Iova::new(0xffe0_0000), Iova::new(0x1_0000_0000)];

/// The IOVA allocator and the page tables of a domain.
pub(super) struct IovaSpace {
    smmu: &'static Smmu,
    /// `None` if the addresses are chosen outside: a program manages them.
    ranges: Option<RangeAllocator<Iova>>,
    domain: smmu::PagingDomain,
    /// The end of the address range of the tables.
    end: Iova,
    /// The devices because of which faults are not recorded.
    silencers: u32,
    /// The mapped doorbell pages, from the start of `doorbell_window` on.
    doorbells: Vec<PhysAddr>,
    /// The addresses of doorbells; empty if devices cannot use them.
    doorbell_window: AddrRange<Iova>,
}

impl IovaSpace {
    /// Returns the IOVA space of `domain`, which must be empty, without the `unusable` addresses.
    pub fn new(
        smmu: &'static Smmu,
        domain: smmu::PagingDomain,
        input_bits: u8,
        unusable: &[AddrRange<Iova>],
    ) -> Self {
        // IOVA 0 is never allocated: drivers and devices use it as a null address.
        let space = AddrRange::new(Iova::new(PAGE_SIZE), Iova::new(1 << input_bits));
        let mut ranges = RangeAllocator::with_guard(space, debug::GUARD_BYTES);
        let [start, end] = MSI_DOORBELLS;
        let doorbells = AddrRange::new(start, end);
        ranges.reserve(doorbells);
        unusable.iter().for_each(|&range| ranges.reserve(range));
        let window = if unusable.iter().any(|range| range.overlaps(&doorbells)) {
            AddrRange::EMPTY
        } else {
            doorbells
        };
        Self::with_ranges(smmu, Some(ranges), domain, space, window)
    }

    /// Returns the IOVA space of `domain`, which must be empty, for [`map_at`](Self::map_at), with the
    /// addresses of doorbells, which it must not use.
    pub fn user_managed(
        smmu: &'static Smmu,
        domain: smmu::PagingDomain,
        input_bits: u8,
        doorbells: AddrRange<Iova>,
    ) -> Self {
        let space = AddrRange::new(Iova::new(0), Iova::new(1 << input_bits));
        Self::with_ranges(smmu, None, domain, space, doorbells)
    }

    fn with_ranges(
        smmu: &'static Smmu,
        ranges: Option<RangeAllocator<Iova>>,
        domain: smmu::PagingDomain,
        space: AddrRange<Iova>,
        doorbells: AddrRange<Iova>,
    ) -> Self {
        let doorbell_window = if space.covers(&doorbells) { doorbells } else { AddrRange::EMPTY };
        Self { smmu, ranges, domain, end: space.end(), silencers: 0, doorbells: Vec::new(), doorbell_window }
    }

    pub fn paging_domain(&mut self) -> &mut smmu::PagingDomain {
        &mut self.domain
    }

    /// The devices because of which faults are not recorded.
    pub fn silencers(&mut self) -> &mut u32 {
        &mut self.silencers
    }

    /// Returns the paging domain, for its destruction.
    pub fn into_paging_domain(self) -> smmu::PagingDomain {
        self.domain
    }

    /// The end of the address range of the tables.
    pub fn end(&self) -> Iova {
        self.end
    }

    /// Returns whether the page at `at` is allocated, or managed by a program.
    pub fn is_allocated(&self, at: Iova) -> bool {
        self.ranges.as_ref().is_none_or(|ranges| ranges.is_allocated(at))
    }

    /// Whether a leaf is the mapping of a doorbell page.
    pub fn is_doorbell(&self, leaf: &Leaf<Iova>) -> bool {
        let start = self.doorbell_window.start().raw();
        let index = (leaf.at.raw()).checked_sub(start).map(|offset| offset / PAGE_SIZE);
        let page = index.and_then(|index| self.doorbells.get(index as usize));
        leaf.bytes == PAGE_SIZE && page.is_some_and(|&page| leaf.output().start() == page)
    }

    /// Maps the page of a doorbell as Device memory, once and until the space is dropped.
    ///
    /// # Errors
    /// [`DmaError::OutOfIova`] if devices cannot use the addresses of doorbells, [`DmaError::OutOfTables`],
    /// [`DmaError::AboveIommu`], [`DmaError::IommuTimeout`].
    ///
    /// # Safety
    /// `page` is a page of registers in which devices may write to the doorbell.
    pub unsafe fn map_doorbell(&mut self, page: PhysAddr) -> Result<Iova, DmaError> {
        let known = self.doorbells.iter().position(|&known| known == page);
        let at = self.doorbell_window.start() + known.unwrap_or(self.doorbells.len()) as u64 * PAGE_SIZE;
        if !self.doorbell_window.contains(at) || debug::fail_point(FailPoint::Iova) {
            return Err(DmaError::OutOfIova { len: PAGE_SIZE, highest: self.end() });
        }
        if known.is_some() {
            return Ok(at);
        }
        self.doorbells.try_reserve(1).map_err(|_| DmaError::OutOfTables)?;
        let mapping = Mapping::read_write(MemoryType::Device);
        // SAFETY: no frame of memory; the page is never unmapped.
        unsafe { self.map_at(iter::once(Chunk::page(Pfn::containing(page))), at, mapping) }?;
        self.doorbells.push(page);
        Ok(at)
    }

    /// Calls `visit` for each leaf descriptor of `range` in ascending order, until it breaks.
    pub fn leaves_until(&self, range: AddrRange<Iova>, visit: impl FnMut(Leaf<Iova>) -> ControlFlow<()>) {
        self.domain.leaves_until(&Tables, range, visit);
    }

    /// Calls `show` for each page-table frame.
    pub fn each_table(&self, show: impl FnMut(PhysAddr)) {
        self.domain.each_table(&Tables, show);
    }

    /// Allocates the address range of the last-level table at `at` permanently and pins the table for all of
    /// RAM; `None` if part of the range is allocated or outside the domain, or if the SMMU does not reach all
    /// of RAM.
    ///
    /// # Errors
    /// [`DmaError::OutOfTables`].
    ///
    /// # Safety
    /// The result is not used after the space is dropped.
    pub unsafe fn pin(&mut self, at: Iova) -> Result<Option<PinnedTable>, DmaError> {
        // The allocator adds the guard pages behind the range; with them it covers the table.
        let range = AddrRange::new(at, at + (PinnedTable::BYTES - debug::GUARD_BYTES));
        if self.ranges.as_mut().is_none_or(|ranges| ranges.alloc_at(range).is_err()) {
            return Ok(None);
        }
        let highest = memory::layout().highest();
        // SAFETY: passed on to the caller; the tree is destroyed when the space is dropped.
        match unsafe { self.domain.pin(&mut Tables, self.smmu.command_queue(), at, highest) } {
            Ok(pinned) => Ok(Some(pinned)),
            Err(pagetable::MapError::OutputTooLarge { .. }) => {
                self.free(range);
                Ok(None)
            }
            Err(pagetable::MapError::OutOfTables) => {
                self.free(range);
                Err(DmaError::OutOfTables)
            }
            Err(error) => panic!("pinned table at {at}: {error:?}"),
        }
    }

    /// See [`Domain::map`](super::Domain::map).
    ///
    /// # Safety
    /// As for [`Domain::map`](super::Domain::map).
    pub unsafe fn map(
        &mut self,
        chunks: impl Iterator<Item: FrameRun>,
        request: &MapRequest,
    ) -> Result<AddrRange<Iova>, DmaError> {
        let range = self.alloc_range(request)?;
        // SAFETY: passed on to the caller.
        unsafe { self.fill(chunks, range, request.mapping) }?;
        Ok(range)
    }

    /// Allocates a range with the preferred alignment, or with a smaller one if the space below the mask is
    /// too small.
    fn alloc_range(&mut self, request: &MapRequest) -> Result<AddrRange<Iova>, DmaError> {
        let highest = request.mask.highest();
        let exhausted = DmaError::OutOfIova { len: request.len, highest };
        let Some(ranges) = &mut self.ranges else { return Err(exhausted) };
        let range = ranges.alloc(request.len, request.align, highest);
        range.or_else(|_| Self::alloc_less_aligned(ranges, request, highest)).map_err(|_| exhausted)
    }

    #[cold]
    fn alloc_less_aligned(
        ranges: &mut RangeAllocator<Iova>,
        request: &MapRequest,
        highest: Iova,
    ) -> Result<AddrRange<Iova>, RangeError<Iova>> {
        let smaller = [Order::BLOCK_2M, Order::CONTIGUOUS, Order::PAGE].map(Order::bytes);
        let mut found = Err(RangeError::OutOfRange { len: request.len, highest });
        for align in smaller.into_iter().filter(|&align| align < request.align) {
            found = found.or_else(|_| ranges.alloc(request.len, align, highest));
        }
        found
    }

    /// Maps `chunks` at `range`. After an error the range is freed, unless the IOTLB may still hold a part of
    /// it.
    ///
    /// # Safety
    /// As for [`Domain::map`](super::Domain::map).
    unsafe fn fill(
        &mut self,
        chunks: impl Iterator<Item: FrameRun>,
        range: AddrRange<Iova>,
        mapping: Mapping,
    ) -> Result<(), DmaError> {
        // SAFETY: passed on to the caller.
        let mapped = unsafe { self.map_at(chunks, range.start(), mapping) };
        match mapped {
            Ok(()) => {}
            Err(DmaError::IommuTimeout) => log::error!("IOMMU: {range:?} leaked"),
            Err(_) => self.free(range),
        }
        mapped
    }

    /// Maps `chunks` at `at`, where nothing is mapped.
    ///
    /// # Errors
    /// After [`DmaError::IommuTimeout`] the IOTLB may still hold a part of the mapping.
    ///
    /// # Safety
    /// As for [`Domain::map`](super::Domain::map).
    pub unsafe fn map_at(
        &mut self,
        chunks: impl Iterator<Item: FrameRun>,
        at: Iova,
        mapping: Mapping,
    ) -> Result<(), DmaError> {
        if debug::fail_point(FailPoint::Maps) {
            return Err(DmaError::OutOfTables);
        }
        let commands = self.smmu.command_queue();
        // SAFETY: passed on to the caller.
        match unsafe { self.domain.map(&mut Tables, commands, at, chunks, mapping) } {
            Ok(()) => Ok(()),
            Err(DomainMapError::NotInvalidated { error, .. }) => {
                log::error!("IOMMU: mapping at {at}: {error:?}");
                Err(DmaError::IommuTimeout)
            }
            Err(DomainMapError::Table(pagetable::MapError::OutOfTables)) => Err(DmaError::OutOfTables),
            Err(DomainMapError::Table(pagetable::MapError::OutputTooLarge { last, highest })) => {
                Err(DmaError::AboveIommu { last, highest })
            }
            // The range was free, aligned and in the domain; any other error is a broken invariant.
            Err(error) => panic!("map at {at}: {error:?}"),
        }
    }

    /// Clears the descriptors of a range that a single call mapped.
    pub fn unmap<T>(&mut self, range: AddrRange<Iova>, held: T) -> Stale<T> {
        match self.domain.unmap_whole(&mut Tables, self.smmu.command_queue(), range, held) {
            Ok(stale) => stale,
            // The range was mapped by one call, so no block is split and no table is needed.
            Err(refused) => panic!("unmap of {range:?}: {:?}", refused.error),
        }
    }

    /// Frees a range after its invalidation.
    pub fn free(&mut self, range: AddrRange<Iova>) {
        if let Some(ranges) = &mut self.ranges
            && let Err(error) = ranges.free(range)
        {
            panic!("free of IOVA range {range:?}: {error:?}");
        }
    }
}
