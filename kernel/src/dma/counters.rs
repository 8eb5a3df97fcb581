//! Gauges of buffer memory, IOVA ranges and page tables: current value and peak.

use crate::iommu::{self, LOST_BYTES, TABLE_PAGES};
use crate::memory::vmalloc::VMALLOC;
pub use crate::perf_counters::{Gauge, Reading};

/// Bytes of buffers in lowmem.
pub(super) static LOW_BYTES: Gauge = Gauge::new();
/// Bytes of buffers in highmem.
pub(super) static HIGH_BYTES: Gauge = Gauge::new();
/// IOVA ranges in use.
pub(super) static IOVA_RANGES: Gauge = Gauge::new();

/// All counters. Not a consistent snapshot: each is read on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes of buffers in lowmem.
    pub low_bytes: Reading,
    /// Bytes of buffers in highmem.
    pub high_bytes: Reading,
    /// Bytes of vmalloc mappings.
    pub vmalloc_bytes: Reading,
    /// Page-table frames of all translated domains.
    pub table_pages: Reading,
    /// IOVA ranges in use.
    pub iova_ranges: Reading,
    /// Bytes leaked after IOMMU timeouts.
    pub lost_bytes: Reading,
    /// SMMU commands since boot.
    pub commands: u64,
    /// The CMD_SYNCs among them.
    pub syncs: u64,
    /// The register writes for them.
    pub register_writes: u64,
}

/// Reads all counters.
pub fn read() -> Counters {
    let (commands, syncs, register_writes) = iommu::command_counts();
    Counters { commands, syncs, register_writes, ..gauges() }
}

/// Reads the gauges without taking a lock. The command counters are 0.
pub fn gauges() -> Counters {
    Counters {
        low_bytes: LOW_BYTES.read(),
        high_bytes: HIGH_BYTES.read(),
        vmalloc_bytes: VMALLOC.usage(),
        table_pages: TABLE_PAGES.read(),
        iova_ranges: IOVA_RANGES.read(),
        lost_bytes: LOST_BYTES.read(),
        ..Counters::default()
    }
}
