//! A domain behind an SMMU: which addresses are taken, and the tables behind them.

use super::request::{MapPlacement, MapRequest};
use crate::debug::{self, FailPoint};
use crate::iommu::{Smmu, Tables};
use addr::{AddrRange, FrameRun, Iova, Order, PAGE_SIZE, PhysAddr};
use dma_api::DmaError;
use drivers::iommu::Stale;
use drivers::smmu::{self, DomainMapError, PinnedTable};
use memory::{RangeAllocator, RangeError};
use pagetable::{Leaf, Mapping};

/// What the lock of a domain protects.
pub(super) struct IovaSpace {
    smmu: &'static Smmu,
    ranges: RangeAllocator<Iova>,
    domain: smmu::PagingDomain,
}

impl IovaSpace {
    /// `domain`, in which nothing is mapped.
    pub fn new(smmu: &'static Smmu, domain: smmu::PagingDomain, input_bits: u8) -> Self {
        // Address 0 stays free: drivers and devices take it for "nothing".
        let space = AddrRange::new(Iova::new(PAGE_SIZE), Iova::new(1 << input_bits));
        Self { smmu, ranges: RangeAllocator::with_guard(space, debug::GUARD_BYTES), domain }
    }

    /// The SMMU's part.
    pub fn paging_domain(&mut self) -> &mut smmu::PagingDomain {
        &mut self.domain
    }

    /// The SMMU's part, to be taken apart.
    pub fn into_paging_domain(self) -> smmu::PagingDomain {
        self.domain
    }

    /// The first address that is not translated.
    pub fn end(&self) -> Iova {
        self.ranges.space().end()
    }

    /// Whether somebody has the page at `at`.
    pub fn is_allocated(&self, at: Iova) -> bool {
        self.ranges.is_allocated(at)
    }

    /// Shows every page or block of `range`, lowest first.
    pub fn leaves(&self, range: AddrRange<Iova>, visit: impl FnMut(Leaf<Iova>)) {
        self.domain.leaves(&Tables, range, visit);
    }

    /// Shows every table behind it.
    pub fn each_table(&self, show: impl FnMut(PhysAddr)) {
        self.domain.each_table(&Tables, show);
    }

    /// Pins the table from `at` on, whose addresses nobody else gets any more; `None` when they are not all free, or not
    /// all in the domain.
    ///
    /// # Errors
    /// [`DmaError::OutOfTables`].
    pub fn pin(&mut self, at: Iova) -> Result<Option<PinnedTable>, DmaError> {
        // What is behind the range belongs to it too, and so to the table.
        let range = AddrRange::new(at, at + (PinnedTable::BYTES - debug::GUARD_BYTES));
        if self.ranges.alloc_at(range).is_err() {
            return Ok(None);
        }
        match self.domain.pin(&mut Tables, self.smmu.command_queue(), at) {
            Ok(pinned) => Ok(Some(pinned)),
            Err(pagetable::MapError::OutOfTables) => {
                self.free(range);
                Err(DmaError::OutOfTables)
            }
            Err(error) => panic!("a table from {at} on: {error:?}"),
        }
    }

    /// See [`Domain::map`](super::Domain::map).
    pub fn map(
        &mut self,
        chunks: impl Iterator<Item: FrameRun>,
        request: &MapRequest,
    ) -> Result<AddrRange<Iova>, DmaError> {
        let range = self.place(request)?;
        self.fill(chunks, range, request.mapping)?;
        Ok(range)
    }

    /// Addresses for a mapping: aligned as wished, or less where the space below the mask is too small for that.
    fn place(&mut self, request: &MapRequest) -> Result<AddrRange<Iova>, DmaError> {
        let highest = request.mask.highest();
        let full = DmaError::OutOfIova { len: request.len, highest };
        let limit = match request.placement {
            MapPlacement::Whole | MapPlacement::PerChunk => highest,
            // Its first page is reachable then.
            MapPlacement::Start => Iova::new(highest.raw().saturating_add(request.len - PAGE_SIZE)),
        };
        let range = self.ranges.alloc(request.len, request.align, limit);
        range.or_else(|_| self.place_less_aligned(request, limit)).map_err(|_| full)
    }

    #[cold]
    fn place_less_aligned(
        &mut self,
        request: &MapRequest,
        limit: Iova,
    ) -> Result<AddrRange<Iova>, RangeError<Iova>> {
        let smaller = [Order::BLOCK_2M, Order::CONTIGUOUS, Order::PAGE].map(Order::bytes);
        let mut found = Err(RangeError::OutOfRange { len: request.len, highest: limit });
        for align in smaller.into_iter().filter(|&align| align < request.align) {
            found = found.or_else(|_| self.ranges.alloc(request.len, align, limit));
        }
        found
    }

    /// Maps `chunks` to `range`; on failure the range is free again, unless the IOMMU might still know some of it.
    fn fill(
        &mut self,
        chunks: impl Iterator<Item: FrameRun>,
        range: AddrRange<Iova>,
        mapping: Mapping,
    ) -> Result<(), DmaError> {
        let commands = self.smmu.command_queue();
        if debug::fail_point(FailPoint::Maps) {
            self.free(range);
            return Err(DmaError::OutOfTables);
        }
        let error = match self.domain.map(&mut Tables, commands, range.start(), chunks, mapping) {
            Ok(()) => return Ok(()),
            Err(DomainMapError::NotInvalidated { error, .. }) => {
                log::error!("IOMMU: {range:?} stays out of use: {error:?}");
                return Err(DmaError::IommuTimeout);
            }
            Err(DomainMapError::Table(pagetable::MapError::OutOfTables)) => DmaError::OutOfTables,
            Err(DomainMapError::Table(pagetable::MapError::OutputTooLarge(_))) => {
                DmaError::TooLong { len: range.len() }
            }
            // The range was free, aligned and inside; an error here is a broken invariant.
            Err(error) => panic!("map of {range:?}: {error:?}"),
        };
        self.free(range);
        Err(error)
    }

    /// Clears the tables of a range that one call has mapped.
    pub fn unmap<T>(&mut self, range: AddrRange<Iova>, held: T) -> Stale<T> {
        match self.domain.unmap_whole(&mut Tables, self.smmu.command_queue(), range, held) {
            Ok(stale) => stale,
            // It was mapped by one call, so no block is cut and no table is needed.
            Err(refused) => panic!("unmap of {range:?}: {:?}", refused.error),
        }
    }

    /// Ends the use of addresses that the SMMU has forgotten.
    pub fn free(&mut self, range: AddrRange<Iova>) {
        if let Err(error) = self.ranges.free(range) {
            panic!("device addresses {range:?} freed: {error:?}");
        }
    }
}
