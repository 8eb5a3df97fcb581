//! The SMMUs of the machine behind their locks: bring-up, stream tables, command completion, and the event
//! queue.
//!
//! Lock order: paging domain (held by the caller), stream table or TLB tags, command queue. The command queue
//! has a spin lock, the others a [`Mutex`](crate::sched::Mutex), since they are held while an SMMU completes
//! commands. The event queue is locked alone, by the interrupt handler too. Recorded events go to the
//! registered [`EventSink`]s.

mod bringup;
mod commands;
mod event_log;
mod events;
mod fault_log;
mod overflow_cause;
mod smmu;
mod table_memory;

pub use bringup::{EVENTS_PER_DEVICE, abort_all, init};
pub use commands::Commands;
pub use events::{DrainTime, EventSink, register_sink};
pub use smmu::{Smmu, all, command_counts, find};
pub use table_memory::{Regions, Tables};

use crate::perf_counters::Gauge;
use core::fmt;

/// Page-table frames of all paging domains.
pub static TABLE_PAGES: Gauge = Gauge::new();
/// Bytes that are never reused, since an IOMMU that may still access them did not respond. Never decreases.
pub static LOST_BYTES: Gauge = Gauge::new();

/// Leaks `memory` of this number of bytes, which an IOMMU may still access because of `cause`.
#[cold]
pub fn leak<T>(memory: T, bytes: u64, cause: impl fmt::Display) {
    core::mem::forget(memory);
    LOST_BYTES.add(bytes);
    log::error!("IOMMU: {bytes} bytes leaked: {cause}");
}
