//! What buffers cost: each number now, and the highest it ever was.

use crate::iommu::{self, LOST_BYTES, TABLE_PAGES};
use crate::memory::vmalloc::VMALLOC;
pub use crate::perf_counters::{Gauge, Reading};

/// Bytes of buffers in low memory.
pub(super) static LOW_BYTES: Gauge = Gauge::new();
/// Bytes of buffers in high memory.
pub(super) static HIGH_BYTES: Gauge = Gauge::new();
/// Ranges of device addresses in use.
pub(super) static IOVA_RANGES: Gauge = Gauge::new();

/// All of them at one moment (nearly: each is read on its own).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes of buffers in low memory.
    pub low_bytes: Reading,
    /// Bytes of buffers in high memory.
    pub high_bytes: Reading,
    /// Bytes of kernel mappings of buffers outside the linear map.
    pub vmalloc_bytes: Reading,
    /// Frames that are page tables of devices.
    pub table_pages: Reading,
    /// Ranges of device addresses in use.
    pub iova_ranges: Reading,
    /// Bytes lost to an IOMMU that did not answer.
    pub lost_bytes: Reading,
    /// Commands given to the IOMMU so far.
    pub commands: u64,
    /// Of these, waits for completion.
    pub syncs: u64,
    /// Writes to the IOMMU's registers on the way.
    pub register_writes: u64,
}

/// The numbers now.
pub fn read() -> Counters {
    let (commands, syncs, register_writes) = iommu::command_counts();
    Counters { commands, syncs, register_writes, ..gauges() }
}

/// Those that are read without a lock: all but what went to the IOMMU, which is 0.
pub fn gauges() -> Counters {
    let (now, peak) = VMALLOC.usage();
    Counters {
        low_bytes: LOW_BYTES.read(),
        high_bytes: HIGH_BYTES.read(),
        vmalloc_bytes: Reading { now, peak },
        table_pages: TABLE_PAGES.read(),
        iova_ranges: IOVA_RANGES.read(),
        lost_bytes: LOST_BYTES.read(),
        ..Counters::default()
    }
}
