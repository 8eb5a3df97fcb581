//! The SMMUv3 (IHI 0070): translation for devices.
//!
//! ```text
//! Features::probe     what is there; refused if it cannot work
//! start               abort everything, disable, program, enable -> SmmuV3, in parts that have their own locks:
//!   commands            CommandQueue: push, publish, wait
//!   events              EventQueue: drained by the interrupt handler
//!   streams             StreamTable: attach, detach (trait Iommu)
//!   tlb_tags                ASIDs for PagingDomain::new
//! PagingDomain              tables of a device's addresses: map, unmap, invalidate (trait iommu::Domain)
//! PinnedTable              one of its tables, whose pages need no lock
//! ```
//!
//! Lock order, for whoever locks: domain, stream table, commands. The event queue is taken alone.

mod clock;
mod coherency;
mod command_queue;
mod domain;
mod event_queue;
#[cfg(feature = "checking")]
mod inject;
mod pinned_table;
mod probe;
mod rate_limit;
mod recovery;
mod registers;
mod reset;
mod stream_table;
mod table_memory;
mod tlb_tags;

pub use clock::{Clock, TIMEOUT_US};
pub use command_queue::{CommandCounters, CommandError, CommandQueue, GlobalErrors, QueueFull, sync};
pub use domain::{DestroyError, DomainError, PagingDomain};
pub use event_queue::{EventCounters, EventQueue, EventReport};
#[cfg(feature = "checking")]
pub use inject::{BreakError, InjectedError, Injector};
pub use pinned_table::PinnedTable;
pub use probe::{Features, Missing, Stages, Unsupported};
pub use rate_limit::{Dropped, RateLimiter, WINDOW as EVENT_WINDOW_US};
pub use registers::Registers;
pub use reset::{FirmwareState, SmmuV3, StartError, abort_all, start};
pub use stream_table::{StreamError, StreamTable};
pub use tlb_tags::TlbTagAllocator;
