//! The SMMUv3 (IHI 0070): address translation for devices.
//!
//! ```text
//! Features::probe    capabilities; an unsuitable SMMU is rejected
//! start              aborts all streams, resets, enables -> SmmuV3, in parts with locks of their own:
//!   commands         CommandQueue: invalidations and their completion
//!   events           EventQueue: drained by the interrupt handler
//!   streams          StreamTable: attach, detach
//!   tags             TlbTagAllocator: ASIDs or VMIDs for PagingDomain::new
//! PagingDomain       an IOVA space: map, unmap, invalidate
//! PinnedTable        a last-level table of a domain, whose pages are mapped without the domain's lock
//! ```
//!
//! Lock order: domain, stream table, command queue. The event queue is locked alone.

mod clock;
mod coherency;
mod command_queue;
mod control;
mod domain;
mod event_queue;
mod event_rate_limit;
mod pinned_table;
mod probe;
mod registers;
mod reset;
mod stream_table;
mod table_memory;
mod tlb_tags;

pub use clock::{Clock, TIMEOUT_US};
pub use command_queue::*;
pub use control::{FirmwareState, RegisterTimeout};
pub use domain::{DestroyError, DomainError, DomainMapError, PagingDomain};
pub use event_queue::{EventQueue, EventReport};
pub use event_rate_limit::SuppressedEvents;
pub use pinned_table::PinnedTable;
pub use probe::{Features, Missing, Stages, Unsupported};
pub use registers::Registers;
pub use reset::{SmmuV3, StartError, abort_all, start};
pub use stream_table::{StreamError, StreamTable};
pub use tlb_tags::TlbTagAllocator;
