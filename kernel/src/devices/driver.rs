//! Items of all drivers: bound devices and probe errors.

use crate::board::NodeError;
use crate::memory::vmalloc::MapRegistersError;
use alloc::boxed::Box;
use core::fmt;
use dma_api::DmaError;
use drivers::pcie::{EcamError, MasterError, Phandle};

/// A device that a driver has bound, before programs and self-tests use it.
pub trait BoundDevice: Sync {
    /// Makes the device available, and registers its device nodes. With `check` the device is tested first,
    /// and left out if it fails. Called once, in a thread.
    fn publish(&'static self, check: bool);
}

/// The result of a probe; `None` if the driver needs the device no longer.
pub type Probed = Result<Option<&'static dyn BoundDevice>, ProbeError>;

/// Why a device or host bridge is not used.
pub enum ProbeError {
    /// Registers cannot be mapped.
    Map(MapRegistersError),
    /// Configuration space is too short.
    Ecam(EcamError),
    /// This BAR has no address.
    NoBar(u8),
    /// The SMMU in front of the function is not in use.
    NoIommu(Phandle),
    /// The device's bus changes addresses in front of its SMMU.
    ShiftedAddresses,
    /// The device cannot be attached, or gets no memory.
    Dma(DmaError),
    /// Bus mastering or the interrupt cannot be enabled.
    Master(MasterError),
    /// The device tree node is invalid.
    Node(NodeError),
    /// An error of the driver.
    Device(Box<dyn fmt::Display>),
}

impl ProbeError {
    /// Wraps a driver's own error.
    pub fn device(error: impl fmt::Display + 'static) -> Self {
        Self::Device(Box::new(error))
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Ecam(error) => error.fmt(f),
            Self::NoBar(bar) => write!(f, "BAR {bar} has no address"),
            Self::NoIommu(phandle) => {
                write!(f, "its IOMMU (phandle {:#x}) is not in use", phandle.0)
            }
            Self::ShiftedAddresses => {
                write!(f, "dma-ranges that changes addresses is not supported in front of an IOMMU")
            }
            Self::Dma(error) => error.fmt(f),
            Self::Master(error) => error.fmt(f),
            Self::Node(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}
