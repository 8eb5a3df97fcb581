//! Sources of frames, and the constraints of a request.

use crate::owned::{OwnedChunk, OwnedPages};
use addr::{Order, PhysAddr};

/// A zone of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Lowmem: in the kernel's linear map.
    Low,
    /// Highmem: without a kernel mapping.
    High,
}

/// The frames that a request may use: zones and highest address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    highest: PhysAddr,
    zones: Preference,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Preference {
    HighFirst,
    Only(Zone),
}

impl Reach {
    /// All RAM, highmem first, lowmem down to the reserve
    /// ([`Zones::set_reserve`](crate::Zones::set_reserve)). For buffers and program pages.
    pub const ANYWHERE: Self = Self { highest: PhysAddr::new(u64::MAX), zones: Preference::HighFirst };
    /// Lowmem including the reserve. For memory that the kernel itself accesses.
    pub const LOW: Self = Self { zones: Preference::Only(Zone::Low), ..Self::ANYWHERE };
    /// Highmem only.
    pub const HIGH: Self = Self { zones: Preference::Only(Zone::High), ..Self::ANYWHERE };

    /// The same, limited to frames without a byte above `highest`.
    ///
    /// The limit selects whole banks: one that is neither the end of RAM nor one less than a power of two
    /// excludes the bank that it is in.
    pub fn up_to(self, highest: PhysAddr) -> Self {
        Self { highest: self.highest.min(highest), ..self }
    }
    /// The highest usable physical address.
    pub const fn highest(self) -> PhysAddr {
        self.highest
    }
    /// The same, limited to the preferred zone.
    pub const fn preferred(self) -> Self {
        Self { highest: self.highest, zones: Preference::Only(self.zone()) }
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
    fn alloc(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk>;
    /// Frees the chunk. It may be a part of one that was allocated.
    fn free(&mut self, chunk: OwnedChunk);

    /// Allocates single frames within `reach`: at least one and at most `wanted` (not 0), depending on how
    /// many one lookup finds. `None` if there is none.
    fn alloc_pages(&mut self, wanted: u32, reach: Reach) -> Option<OwnedPages> {
        debug_assert!(wanted > 0);
        self.alloc(Order::PAGE, reach).map(OwnedPages::from)
    }

    /// Frees single frames.
    fn free_pages(&mut self, pages: OwnedPages) {
        pages.split().for_each(|page| self.free(page));
    }
}
