//! PCI Express behind an ECAM host bridge: configuration space, enumeration across bridges, BAR assignment,
//! interrupts and requester IDs.
//!
//! [`Host::enumerate`] disables every function, numbers all buses, sizes and assigns all BARs, and returns a
//! list of [`Function`]s that decode memory. They become bus masters and raise interrupts only after
//! [`Host::enable_bus_master`] and [`Host::enable_intx`] or [`Host::enable_msi`]. I/O space is not used.
//! Enumeration must precede the first stream attachment of an SMMU, since stream IDs depend on bus numbers.

mod address;
mod assign;
mod bar;
mod capabilities;
mod config;
mod description;
mod enumerate;
#[cfg(test)]
mod fake;
mod function;
mod groups;
mod host;
mod msi;
mod msix;
mod problem;
mod reset;
mod user_config;

pub use address::Bdf;
pub use bar::{Bar, BarKind};
pub use capabilities::{Capabilities, Capability};
pub use config::{ConfigSpace, Ecam, EcamError, Width};
pub use description::{
    HostDescription, HostWindow, InterruptMap, InterruptRoute, PciSpace, Phandle, RequesterMap,
    RequesterRange,
};
pub use function::{Bridge, ClassCode, Function, LinkType};
pub use groups::{GroupReason, IsolationGroup};
pub use host::{Host, IsolateError, MasterError, StreamLive};
pub use msi::{Message, MsiCapabilityError};
pub use msix::{MsixState, MsixTable, MsixTableLocation};
pub use problem::Problem;
pub use reset::PendingReset;
pub use user_config::{ConfigWrite, OutOfConfigMemory, UserConfig};
