//! Devices outside of PCI: the binding of drivers to device tree nodes.

use super::driver::{BoundDevice, ProbeError, Probed};
use crate::board::{Platform, PlatformDevice};
use crate::dma::Device;
use crate::memory::vmalloc;
use addr::{AddrRange, KernelVa, PhysAddr};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A driver for devices that the device tree describes.
pub struct PlatformDriver {
    /// The name in log lines.
    pub name: &'static str,
    /// The `compatible` strings that the driver supports.
    pub compatible: &'static [&'static str],
    /// Initializes a device and binds it.
    pub probe: fn(&PlatformProbe<'_>) -> Probed,
}

/// Returns the driver for a `compatible` string.
fn driver_for(drivers: &[&'static PlatformDriver], compatible: &str) -> Option<&'static PlatformDriver> {
    drivers.iter().find(|driver| driver.compatible.contains(&compatible)).copied()
}

/// Probes every device that one of `drivers` supports. A device whose probe fails is left out with a warning.
pub fn probe(drivers: &[&'static PlatformDriver], platform: &Platform) -> Vec<&'static dyn BoundDevice> {
    let bound = platform.devices.iter().filter_map(|device| {
        let driver = driver_for(drivers, device.compatible)?;
        (driver.probe)(&PlatformProbe { device, memory: &platform.memory }).unwrap_or_else(|error| {
            log::warn!("{} {}: ignored: {error}", driver.name, device.path);
            None
        })
    });
    bound.collect()
}

/// A device whose driver is being probed.
pub struct PlatformProbe<'a> {
    /// The device's description.
    pub device: &'a PlatformDevice,
    /// RAM.
    pub memory: &'a [AddrRange<PhysAddr>],
}

impl PlatformProbe<'_> {
    /// Maps `registers`, some of the device's, permanently as Device memory. No other driver uses them.
    ///
    /// # Errors
    /// [`ProbeError::Map`].
    ///
    /// # Safety
    /// As for [`vmalloc::map_registers`].
    pub unsafe fn map(&self, registers: AddrRange<PhysAddr>) -> Result<AddrRange<KernelVa>, ProbeError> {
        // SAFETY: passed on to the caller.
        unsafe { vmalloc::map_registers(registers) }.map_err(ProbeError::Map)
    }

    /// Returns a new device of the DMA core, without an IOMMU.
    pub fn dma_device(&self, name: &str) -> Arc<Device> {
        Device::direct(name.to_string(), self.device.coherent, self.device.windows.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static DMA: PlatformDriver =
        PlatformDriver { name: "dma", compatible: &["brcm,bcm2835-dma", "brcm,bcm2711-dma"], probe: bind };
    static MAILBOX: PlatformDriver =
        PlatformDriver { name: "mailbox", compatible: &["brcm,bcm2835-mbox"], probe: bind };

    fn bind(_: &PlatformProbe<'_>) -> Probed {
        Ok(None)
    }

    #[test]
    fn drivers_match_by_a_whole_compatible_string() {
        let name = |compatible| driver_for(&[&DMA, &MAILBOX], compatible).map(|driver| driver.name);
        assert_eq!(name("brcm,bcm2711-dma"), Some("dma"));
        assert_eq!(name("brcm,bcm2835-mbox"), Some("mailbox"));
        assert_eq!((name("brcm,bcm2835-dma-lite"), name("brcm,bcm2835"), name("")), (None, None, None));
    }
}
