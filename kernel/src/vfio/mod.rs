//! VFIO: PCI functions as files of user-space drivers, whose DMA reaches only memory that the program has
//! mapped.
//!
//! - [`registry`]: the isolation groups, and the functions that are left to user space.
//! - [`group_file`], [`container`]: `/dev/vfio/N` and `/dev/vfio/vfio`, the interface of groups.
//! - [`iommufd`]: `/dev/iommu`, the interface of devices ([`device`]) in I/O address spaces.
//! - [`ioas`]: an I/O address space: mappings, pinned once, in the domain of each attached group.
//! - [`function`]: a function while it is open: virtual configuration space, and reset.

mod argument;
mod container;
mod device;
mod function;
mod group;
mod group_file;
mod interrupts;
mod ioas;
mod iommufd;
pub mod registry;

use crate::board::BootArgs;
use crate::devices::pci::{self, PciAddress};
use crate::fs::char_device::{self, DeviceNumber, RegisterError};
use crate::iommu;
use drivers::pcie::Function;

pub use group::{DRIVER, IommuGroup};

/// Finds the isolation groups, and leaves the functions that `vfio-pci.ids` selects to user space. Without an
/// IOMMU there are none.
pub fn init(args: &BootArgs<'_>) {
    if iommu::all().is_empty() {
        return;
    }
    if let Err(error) = register_files() {
        log::warn!("vfio: {error}");
    }
    for index in 0..pci::host_count() {
        let Some(host) = pci::host(index) else { continue };
        let groups = host.lock().isolation_groups();
        registry::add_groups(index as u16, groups);
        let functions = host.lock().functions().to_vec();
        for function in functions.iter().filter(|function| is_selected(args, function)) {
            if let Err(error) = registry::bind(PciAddress { host: index as u16, bdf: function.bdf }) {
                log::warn!("vfio: {}: {error}", function.bdf);
            }
        }
    }
}

fn is_selected(args: &BootArgs<'_>, function: &Function) -> bool {
    function.bridge.is_none() && args.vfio_ids.contains(function.vendor, function.device)
}

fn register_files() -> Result<(), RegisterError> {
    let number = |minor| DeviceNumber { major: 10, minor };
    char_device::register(&["/dev/vfio/vfio"], number(196), container::ContainerFile::open)?;
    char_device::register(&["/dev/iommu"], number(258), iommufd::IommufdFile::open)
}
