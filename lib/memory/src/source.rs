//! Sources of frames, and the constraints of a request.

use crate::owned::{OwnedChunk, OwnedPages};
use addr::{AddrRange, Chunk, Order, PAGE_SIZE, PhysAddr};
use core::ops::Range;

/// A zone of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Lowmem: in the kernel's linear map.
    Low,
    /// Highmem: without a kernel mapping.
    High,
}

/// The frames that a request may use: zones and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach<'a> {
    /// By reference, so that the common `None` is one word in the calls of the fast paths.
    within: Option<&'a AddrRange<PhysAddr>>,
    zones: Preference,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Preference {
    HighFirst,
    Only(Zone),
}

impl Reach<'_> {
    /// All RAM, highmem first, lowmem down to the reserve
    /// ([`Zones::set_reserve`](crate::Zones::set_reserve)). For buffers and program pages.
    pub const ANYWHERE: Self = Self { within: None, zones: Preference::HighFirst };
    /// Lowmem including the reserve. For memory that the kernel itself accesses.
    pub const LOW: Self = Self { zones: Preference::Only(Zone::Low), ..Self::ANYWHERE };
    /// Highmem only.
    pub const HIGH: Self = Self { zones: Preference::Only(Zone::High), ..Self::ANYWHERE };

    /// The same frames, limited to those inside `range`; replaces an earlier limit.
    pub const fn within(self, range: &AddrRange<PhysAddr>) -> Reach<'_> {
        Reach { within: Some(range), zones: self.zones }
    }
    /// The same, limited to lowmem, including the reserve.
    pub const fn low(self) -> Self {
        Self { zones: Preference::Only(Zone::Low), ..self }
    }
    /// The same, limited to the preferred zone.
    pub const fn preferred(self) -> Self {
        Self { zones: Preference::Only(self.zone()), ..self }
    }
    /// Whether another zone is allowed than the preferred one.
    pub fn has_fallback(self) -> bool {
        self.zones == Preference::HighFirst
    }
    /// Whether all of `chunk` is inside the range; any zone.
    pub(crate) fn covers(self, chunk: Chunk) -> bool {
        self.within.is_none_or(|range| range.covers(&chunk.range()))
    }
    /// The numbers of the whole frames inside the range, if there is one.
    pub(crate) fn frames(self) -> Option<Range<u64>> {
        let whole = self.within?.align_inward(PAGE_SIZE);
        Some(whole.start().raw() / PAGE_SIZE..whole.end().raw() / PAGE_SIZE)
    }
    /// The zones, in order of preference.
    pub(crate) const fn preference(self) -> Preference {
        self.zones
    }
    /// The preferred zone.
    pub const fn zone(self) -> Zone {
        match self.zones {
            Preference::HighFirst => Zone::High,
            Preference::Only(zone) => zone,
        }
    }
}

/// A source of frames: the zones, or a cache in front of them.
pub trait FrameSource {
    /// Allocates a chunk of exactly `order` within `reach`; `None` if there is none.
    fn alloc(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk>;
    /// Frees the chunk. It may be a part of one that was allocated.
    fn free(&mut self, chunk: OwnedChunk);

    /// Allocates single frames within `reach`: at least one and at most `wanted` (not 0), depending on how
    /// many one lookup finds. `None` if there is none.
    fn alloc_pages(&mut self, wanted: u32, reach: Reach<'_>) -> Option<OwnedPages> {
        debug_assert!(wanted > 0);
        self.alloc(Order::PAGE, reach).map(OwnedPages::from)
    }

    /// Frees single frames.
    fn free_pages(&mut self, pages: OwnedPages) {
        pages.split().for_each(|page| self.free(page));
    }
}
