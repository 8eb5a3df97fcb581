//! The registry of character devices: the device numbers, the nodes in `/dev`, and how a device is opened.
//!
//! The devices of the file system itself ([`super::init`]) and those of drivers (`devices`) are registered
//! alike. A device must be registered before the initramfs is mounted, which is when the nodes are created.

use super::File;
use crate::sync::SpinLock;
use abi::Errno;
use abi::file::device_number;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceNumber {
    /// The class or driver.
    pub major: u32,
    /// The instance.
    pub minor: u32,
}

impl DeviceNumber {
    /// Returns the number as it is in `st_rdev`.
    pub fn rdev(self) -> u64 {
        device_number(self.major, self.minor)
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A class of devices of which a machine can have several: `/dev/NAME0` with minor number 0, `/dev/NAME1` ...
///
/// A class to which Linux assigns a major number dynamically has one from 240 to 254, the range for local
/// use.
pub struct DeviceClass {
    /// The name of the nodes, without the number.
    pub name: &'static str,
    /// The major number of all instances.
    pub major: u32,
}

/// Opens a device.
type Open = dyn Fn() -> Result<Box<dyn File>, Errno> + Send + Sync;

/// A registered device.
pub struct CharDevice {
    paths: Vec<String>,
    number: DeviceNumber,
    open: Box<Open>,
}

impl CharDevice {
    /// Returns the paths of the device's nodes.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The device number.
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// Opens the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn open(&self) -> Result<Box<dyn File>, Errno> {
        (self.open)()
    }
}

/// Why a device is not registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// Another device has a node at this path.
    PathInUse(String),
    /// Another device has this number.
    NumberInUse(DeviceNumber),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathInUse(path) => write!(f, "a device is already registered at {path}"),
            Self::NumberInUse(number) => write!(f, "device number {number} is already in use"),
        }
    }
}

/// The devices, in the order of their registration.
struct Registry(Vec<Arc<CharDevice>>);

static REGISTRY: SpinLock<Registry> = SpinLock::new(Registry(Vec::new()));

impl Registry {
    fn add(&mut self, device: CharDevice) -> Result<(), RegisterError> {
        let same_path = |path: &&String| self.0.iter().any(|other| other.paths.contains(path));
        if let Some(path) = device.paths.iter().find(same_path) {
            return Err(RegisterError::PathInUse(path.clone()));
        }
        if self.0.iter().any(|other| other.number == device.number) {
            return Err(RegisterError::NumberInUse(device.number));
        }
        self.0.push(Arc::new(device));
        Ok(())
    }

    /// Adds the next instance of `class`.
    fn add_instance(&mut self, class: &DeviceClass, open: Box<Open>) -> Result<DeviceNumber, RegisterError> {
        let instances = self.0.iter().filter(|device| device.number.major == class.major);
        let number = DeviceNumber { major: class.major, minor: instances.count() as u32 };
        let paths = Vec::from([format!("/dev/{}{}", class.name, number.minor)]);
        self.add(CharDevice { paths, number, open })?;
        Ok(number)
    }
}

/// Registers a device with a fixed number, with a node at each of `paths`.
///
/// # Errors
/// [`RegisterError`]: nothing is registered.
pub fn register(
    paths: &[&str],
    number: DeviceNumber,
    open: impl Fn() -> Result<Box<dyn File>, Errno> + Send + Sync + 'static,
) -> Result<(), RegisterError> {
    let paths = paths.iter().copied().map(String::from).collect();
    REGISTRY.lock().add(CharDevice { paths, number, open: Box::new(open) })
}

/// Registers the next instance of `class` and returns its number.
///
/// # Errors
/// [`RegisterError`]: nothing is registered.
pub fn register_instance(
    class: &DeviceClass,
    open: impl Fn() -> Result<Box<dyn File>, Errno> + Send + Sync + 'static,
) -> Result<DeviceNumber, RegisterError> {
    REGISTRY.lock().add_instance(class, Box::new(open))
}

/// Returns the number of registered devices.
pub fn count() -> usize {
    REGISTRY.lock().0.len()
}

/// Returns a device by its place in the order of registration.
pub fn get(index: usize) -> Option<Arc<CharDevice>> {
    REGISTRY.lock().0.get(index).cloned()
}

/// Returns all registered devices.
pub fn all() -> Vec<Arc<CharDevice>> {
    REGISTRY.lock().0.clone()
}

#[cfg(test)]
mod tests {
    use super::super::memory_devices::Null;
    use super::*;

    const EDU: DeviceClass = DeviceClass { name: "edu", major: 241 };

    fn open() -> Box<Open> {
        Box::new(|| Ok(Box::new(Null)))
    }

    fn device(path: &str, major: u32, minor: u32) -> CharDevice {
        CharDevice { paths: vec![path.into()], number: DeviceNumber { major, minor }, open: open() }
    }

    #[test]
    fn instances_of_a_class_get_consecutive_minors() {
        let mut registry = Registry(Vec::new());
        let other = DeviceClass { name: "other", major: 243 };
        for (class, minor) in [(&EDU, 0), (&other, 0), (&EDU, 1)] {
            let number = DeviceNumber { major: class.major, minor };
            assert_eq!(registry.add_instance(class, open()), Ok(number));
        }
        let nodes: Vec<_> =
            registry.0.iter().map(|device| (&*device.paths[0], device.number.rdev())).collect();
        assert_eq!(nodes, [("/dev/edu0", 0xf100), ("/dev/other0", 0xf300), ("/dev/edu1", 0xf101)]);
    }

    #[test]
    fn a_path_or_number_in_use_is_refused() {
        let mut registry = Registry(Vec::new());
        registry.add(device("/dev/null", 1, 3)).unwrap();
        let path = RegisterError::PathInUse("/dev/null".into());
        assert_eq!(registry.add(device("/dev/null", 1, 5)), Err(path));
        let number = RegisterError::NumberInUse(DeviceNumber { major: 1, minor: 3 });
        assert_eq!(registry.add(device("/dev/zero", 1, 3)), Err(number));
        registry.add(device("/dev/edu0", 9, 9)).unwrap();
        let path = RegisterError::PathInUse("/dev/edu0".into());
        assert_eq!(registry.add_instance(&EDU, open()), Err(path));
        assert_eq!(registry.0.len(), 2);
    }
}
