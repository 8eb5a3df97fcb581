//! The requirements of a mapping in a domain.

use dma_api::DmaMask;
use pagetable::Mapping;

/// The requirements of a mapping.
#[derive(Clone, Copy)]
pub(super) struct MapRequest {
    /// Bytes, whole pages.
    pub len: u64,
    /// The alignment at which the largest descriptors can be used.
    pub align: u64,
    /// The addresses that the device can use.
    pub mask: DmaMask,
    pub placement: MapPlacement,
    pub mapping: Mapping,
}

/// The part of a mapping that must lie below the device's mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapPlacement {
    /// All of it.
    Whole,
    /// Its start: a buffer larger than the range below the mask is mapped whole, and the driver uses only addresses below
    /// the mask.
    Start,
    /// All of it; without translation each chunk for itself, for a device with scatter-gather. The result is no contiguous
    /// range then: [`Domain::bus_addresses`](super::Domain) has the addresses.
    PerChunk,
}
