//! Devices and their drivers.
//!
//! # How to add a driver
//!
//! A PCI driver is a file here and an entry in [`PCI_DRIVERS`]. The file has a [`PciDriver`]: the ids or
//! class codes that it supports, and `probe`. The probe gets a [`PciProbe`](pci::PciProbe) and in this order
//! maps the BARs, initializes the device, attaches it to the IOMMU, connects the interrupt, and enables bus
//! mastering. It returns a [`BoundDevice`], whose `publish` later registers the device nodes, with
//! [`register_instance`](crate::fs::char_device::register_instance). `edu.rs` is an example.
//!
//! A driver for another device in the device tree likewise has a [`PlatformDriver`] with the `compatible`
//! strings that it supports, and an entry in [`PLATFORM_DRIVERS`]; `bcm2835_dma.rs` is an example.
//!
//! # Order
//!
//! 1. [`enumerate`]: buses are numbered before the SMMU sees its first command, since stream ids derive from
//!    bus numbers, and DMA that an earlier boot stage left running is stopped.
//! 2. [`probe`]: a device masters the bus only once its stream is live.
//! 3. [`BoundDevices::publish`], in a thread and before the file system is mounted.

mod bcm2835_dma;
mod bcm2835_firmware;
mod bcm2835_framebuffer;
pub mod dma_engine;
pub mod driver;
mod edu;
pub mod pci;
mod pl031;
pub mod platform;

use crate::board::{BootArgs, Platform};
use crate::dma;
use crate::iommu;
use alloc::vec::Vec;
use driver::BoundDevice;
use pci::{PciDriver, PciHost};
use platform::PlatformDriver;

pub use dma_engine::dma_engines;

/// The drivers of PCI functions; the first that matches is used.
static PCI_DRIVERS: &[&PciDriver] = &[&edu::DRIVER];

/// The drivers of devices outside of PCI.
static PLATFORM_DRIVERS: &[&PlatformDriver] =
    &[&bcm2835_dma::DRIVER, &bcm2835_firmware::DRIVER, &pl031::DRIVER];

/// Returns the `compatible` strings of the devices outside of PCI that have a driver.
pub fn compatible() -> Vec<&'static str> {
    PLATFORM_DRIVERS.iter().flat_map(|driver| driver.compatible).copied().collect()
}

/// The host bridges, enumerated; their functions have no drivers yet.
pub struct PciHosts(Vec<&'static PciHost>);

/// Enumerates the functions behind the host bridges and stops the DMA that an earlier boot stage left
/// running: no function is a bus master afterwards. Called as soon as registers can be mapped permanently.
/// SMMUs already abort all streams ([`iommu::abort_all`]).
pub fn enumerate(platform: &Platform) -> PciHosts {
    PciHosts(platform.pci_hosts.iter().filter_map(pci::enumerate).collect())
}

/// Devices with drivers that are not yet published.
pub struct BoundDevices(Vec<&'static dyn BoundDevice>);

/// Initializes the SMMUs and probes the drivers. With `iommu=off` the SMMUs are not used, and devices get
/// physical addresses.
pub fn probe(platform: &Platform, PciHosts(hosts): PciHosts, args: &BootArgs<'_>) -> BoundDevices {
    if !args.iommu_off {
        let devices = |smmu| hosts.iter().map(|host| pci::devices_behind(host, smmu)).sum();
        iommu::init(&platform.smmus, devices, args.iommu_events);
        if dma::fault::start().is_err() {
            log::warn!("no memory for the quarantine thread: faulting devices are not quarantined");
        }
    }
    let mut streams = pci::Streams::new(args.iommu_off);
    let functions = hosts.iter().flat_map(|host| pci::probe(host, PCI_DRIVERS, &mut streams, args));
    BoundDevices(functions.chain(platform::probe(PLATFORM_DRIVERS, platform)).collect())
}

impl BoundDevices {
    /// Makes the devices available to programs and self-tests; with `check` only those that pass a test.
    /// Called in a thread.
    pub fn publish(self, check: bool) {
        self.0.into_iter().for_each(|device| device.publish(check));
    }
}
