//! The devices that this machine has and this kernel drives, in the order in which they were found.
//!
//! Order matters: buses are numbered before an SMMU sees its first command (stream ids hang on bus numbers), and a
//! device masters the bus only once its stream is live.

pub mod edu;
mod pci;

use crate::board::Platform;
use crate::dma;
use alloc::vec::Vec;
use edu::Edu;
use spin::Once;

static EDUS: Once<Vec<&'static Edu>> = Once::new();

/// Finds the devices and starts the drivers. With `iommu_off` the SMMUs are left alone, and devices get physical
/// addresses.
pub fn init(platform: &Platform, iommu_off: bool) {
    let hosts: Vec<_> = platform.pci_hosts.iter().filter_map(pci::open).collect();
    if !iommu_off {
        dma::iommu::init(&platform.smmus);
        if dma::quarantine::start().is_err() {
            log::warn!("no memory for a thread: devices that keep faulting are not blocked");
        }
    }
    let mut streams = pci::Streams::new(iommu_off);
    EDUS.call_once(|| hosts.iter().flat_map(|host| pci::start_edus(host, &mut streams)).collect());
}

/// The `edu` devices: `/dev/edu0` is the first.
pub fn edus() -> &'static [&'static Edu] {
    EDUS.get().map_or(&[], Vec::as_slice)
}
