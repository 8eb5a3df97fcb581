//! The requirements of a mapping in a domain.

use dma_api::DmaMask;
use pagetable::Mapping;

/// A request for an IOVA range and its mapping.
#[derive(Clone, Copy)]
pub(super) struct MapRequest {
    /// The length in bytes, a multiple of the page size.
    pub len: u64,
    /// The preferred alignment: that of the largest usable descriptors.
    pub align: u64,
    /// The device's DMA mask.
    pub mask: DmaMask,
    pub placement: MapPlacement,
    pub mapping: Mapping,
}

/// The form of a mapping, all of which is below the device's mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapPlacement {
    /// One range of addresses.
    Whole,
    /// Without translation the chunks may be scattered, for a device with scatter-gather. The
    /// result is then not a contiguous range: [`Domain::bus_addresses`](super::Domain) returns the addresses.
    PerChunk,
}
