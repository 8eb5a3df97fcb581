//! PCI Express behind an ECAM host bridge: configuration space, enumeration over bridges, BAR assignment, INTx and
//! requester ids. Nothing here masters the bus until it is asked to.

pub mod address;
pub mod host;

pub use address::Bdf;
pub use host::{
    HostDescription, HostWindow, InterruptMap, InterruptRoute, Phandle, RequesterMap, RequesterRange, Space,
};
