//! The groups of the machine, and the functions that are left to user-space drivers.

use super::device::DeviceFile;
use super::function::BoundFunction;
use super::group::{DRIVER, IommuGroup};
use super::group_file::GroupFile;
use crate::devices::pci::{self, PciAddress};
use crate::fs::char_device::{self, DeviceNumber, RegisterError};
use crate::sync::SpinLock;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use drivers::pcie::IsolationGroup;

/// Linux assigns these major numbers dynamically: those for local use.
const GROUP_MAJOR: u32 = 244;
pub const DEVICE_MAJOR: u32 = 245;

static GROUPS: SpinLock<Vec<Arc<IommuGroup>>> = SpinLock::new(Vec::new());
static FUNCTIONS: SpinLock<Vec<Arc<BoundFunction>>> = SpinLock::new(Vec::new());

/// Adds the groups of a host bridge, and prints those of more than one function.
pub fn add_groups(host: u16, found: Vec<IsolationGroup>) {
    for IsolationGroup { functions, reason } in found {
        let mut groups = GROUPS.lock();
        let number = groups.len() as u32;
        if functions.len() > 1 {
            log::info!("vfio: group {number}: {} functions: {reason}", functions.len());
        }
        let functions = functions.into_iter().map(|bdf| PciAddress { host, bdf }).collect();
        groups.push(Arc::new(IommuGroup::new(number, functions, reason)));
    }
}

/// Returns the groups.
pub fn groups() -> Vec<Arc<IommuGroup>> {
    GROUPS.lock().clone()
}

/// Returns the group of a function.
pub fn group_of(at: PciAddress) -> Option<Arc<IommuGroup>> {
    GROUPS.lock().iter().find(|group| group.functions.contains(&at)).cloned()
}

/// Returns the bound functions.
pub fn functions() -> Vec<Arc<BoundFunction>> {
    FUNCTIONS.lock().clone()
}

/// Returns a bound function by its address.
pub fn bound(at: PciAddress) -> Option<Arc<BoundFunction>> {
    FUNCTIONS.lock().iter().find(|function| function.at == at).cloned()
}

/// Returns the bound functions of the group with this number.
pub fn functions_of(group: u32) -> Vec<Arc<BoundFunction>> {
    FUNCTIONS.lock().iter().filter(|function| function.group.number == group).cloned().collect()
}

/// Returns a bound function of a group.
pub fn bound_in(group: &IommuGroup, matches: impl Fn(&BoundFunction) -> bool) -> Option<Arc<BoundFunction>> {
    let functions = FUNCTIONS.lock();
    functions.iter().find(|function| group.has(function) && matches(function)).cloned()
}

/// Leaves a function to user-space drivers.
///
/// # Errors
/// Its device nodes cannot be registered; it is not bound.
pub fn bind(at: PciAddress) -> Result<(), RegisterError> {
    let (Some(host), Some(group)) = (pci::host(at.host.into()), group_of(at)) else { return Ok(()) };
    if !pci::set_driver(at, DRIVER) {
        return Ok(());
    }
    let name = format!("{:04x}:{}", host.lock().description().domain, at.bdf);
    let number = FUNCTIONS.lock().len() as u32;
    let function = Arc::new(BoundFunction::new(at, host, name, number, group.clone()));
    register_nodes(&group, &function).inspect_err(|_| pci::clear_driver(at))?;
    log::info!("vfio: {} is left to user space: group {}, vfio{number}", function.name, group.number);
    FUNCTIONS.lock().push(function);
    Ok(())
}

fn register_nodes(group: &Arc<IommuGroup>, function: &Arc<BoundFunction>) -> Result<(), RegisterError> {
    if bound_in(group, |_| true).is_none() {
        let (path, group) = (format!("/dev/vfio/{}", group.number), group.clone());
        let number = DeviceNumber { major: GROUP_MAJOR, minor: group.number };
        char_device::register(&[&path], number, move || GroupFile::open(&group))?;
    }
    let path = format!("/dev/vfio/devices/vfio{}", function.number);
    let (number, function) = (DeviceNumber { major: DEVICE_MAJOR, minor: function.number }, function.clone());
    char_device::register(&[&path], number, move || DeviceFile::open(&function))
}
