//! Sources of frames, and the constraints of a request.

use crate::owned::{OwnedChunk, OwnedPages};
use addr::{Order, PhysAddr};

/// A kind of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// In the kernel's linear map.
    Low,
    /// Without any kernel mapping.
    High,
}

/// Which frames a request can use.
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
    /// All RAM, high memory first; low memory only down to the reserve ([`Zones::set_reserve`]). For buffers and
    /// program pages.
    pub const ANYWHERE: Self = Self { highest: PhysAddr::new(u64::MAX), zones: Preference::HighFirst };
    /// Low memory to its last frame. For what the kernel itself reads and writes.
    pub const LOW: Self = Self { zones: Preference::Only(Zone::Low), ..Self::ANYWHERE };
    /// High memory alone.
    pub const HIGH: Self = Self { zones: Preference::Only(Zone::High), ..Self::ANYWHERE };

    /// The same, without the frames that have a byte above `highest`.
    ///
    /// Banks are taken or left as a whole: a `highest` that is not the end of RAM or one less than a power of two
    /// leaves out the frames of its bank that it would still reach.
    pub fn up_to(self, highest: PhysAddr) -> Self {
        Self { highest: self.highest.min(highest), ..self }
    }
    /// The highest usable physical address.
    pub const fn highest(self) -> PhysAddr {
        self.highest
    }
    /// The preferred of its zones alone.
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

/// Where chunks come from: all of RAM, or a cache in front of it.
pub trait FrameSource {
    /// A chunk of exactly `order` within `reach`; `None` when there is none.
    fn take(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk>;
    /// Takes the chunk back. It may be a part of one that was taken.
    fn give(&mut self, chunk: OwnedChunk);

    /// Some single frames within `reach`, at least one and at most `wanted` (not 0): as many as are found at once. `None`
    /// when there is none.
    fn take_pages(&mut self, wanted: u32, reach: Reach) -> Option<OwnedPages> {
        debug_assert!(wanted > 0);
        self.take(Order::PAGE, reach).map(OwnedPages::from)
    }

    /// Takes single frames back.
    fn give_pages(&mut self, pages: OwnedPages) {
        pages.split().for_each(|page| self.give(page));
    }
}
