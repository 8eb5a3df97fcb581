//! PCI Express behind an ECAM host bridge: configuration space, enumeration over bridges, BAR assignment, INTx and
//! requester ids.
//!
//! [`Host::enumerate`] silences every function, numbers all buses, sizes and assigns all BARs, and leaves a list of
//! [`Function`]s that decode memory but neither master the bus nor raise interrupts until each is asked to
//! ([`Host::enable_bus_master`], [`Host::enable_intx`]). I/O space is not used. An SMMU must see no command before
//! this is done: its stream ids hang on the bus numbers.

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
mod host;

pub use address::Bdf;
pub use bar::{Bar, BarKind};
pub use capabilities::{Capabilities, Capability};
pub use config::{ConfigSpace, Ecam, EcamError, Width};
pub use description::{
    HostDescription, HostWindow, InterruptMap, InterruptRoute, PciSpace, Phandle, RequesterMap,
    RequesterRange,
};
pub use function::{Bridge, ClassCode, Function, LinkType};
pub use host::{Host, MasterError, Problem, StreamLive};
