//! The SMMUv3 (IHI 0070): translation for devices.
//!
//! ```text
//! Features::probe     what is there; refused if it cannot work
//! start               abort everything, disable, program, enable -> Smmu, in parts that have their own locks:
//!   commands            CommandQueue: push, publish, wait
//!   events              EventQueue: drained by the interrupt handler
//!   streams             StreamTable: attach, detach (trait Iommu)
//!   tags                ASIDs for Domain::new
//! Domain              tables of a device's addresses: map, unmap, invalidate (trait iommu::Domain)
//! Pinned              one of its tables, whose pages need no lock
//! ```
//!
//! Lock order, for whoever locks: domain, stream table, commands. The event queue is taken alone.

mod clock;
mod command_queue;
mod domain;
mod event_queue;
#[cfg(feature = "checking")]
mod mishap;
mod pinned;
mod probe;
mod rate;
mod recovery;
mod registers;
mod reset;
mod stream_table;
mod tags;
mod upkeep;
mod walked;

pub use clock::{Clock, PATIENCE};
pub use command_queue::{CommandCounters, CommandError, CommandQueue, GlobalErrors, QueueFull, sync};
pub use domain::{DestroyError, Domain, DomainError};
pub use event_queue::{EventCounters, EventQueue, Report};
#[cfg(feature = "checking")]
pub use mishap::{LoseError, Mishap, Mishaps};
pub use pinned::Pinned;
pub use probe::{Features, Missing, Stages, Unsupported};
pub use rate::{Dropped, Ration, WINDOW as EVENT_WINDOW_US};
pub use registers::Registers;
pub use reset::{Before, Smmu, StartError, close, start};
pub use stream_table::{StreamError, StreamTable};
pub use tags::Tags;
