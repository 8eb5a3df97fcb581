//! What buffers cost: each number now, and the highest it ever was.

use crate::memory::vmalloc::VMALLOC;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that goes up and down.
pub struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

/// A gauge, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// The value now.
    pub now: u64,
    /// The highest value so far.
    pub peak: u64,
}

impl Gauge {
    const fn new() -> Self {
        Self { now: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn add(&self, amount: u64) {
        let now = self.now.fetch_add(amount, Relaxed) + amount;
        // Mostly not a new peak, and then a load is all it costs.
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    pub(super) fn sub(&self, amount: u64) {
        self.now.fetch_sub(amount, Relaxed);
    }

    fn read(&self) -> Reading {
        Reading { now: self.now.load(Relaxed), peak: self.peak.load(Relaxed) }
    }
}

/// Bytes of buffers in low memory.
pub(super) static LOW_BYTES: Gauge = Gauge::new();
/// Bytes of buffers in high memory.
pub(super) static HIGH_BYTES: Gauge = Gauge::new();
/// Ranges of device addresses in use.
pub(super) static IOVA_RANGES: Gauge = Gauge::new();
/// Frames that are tables of devices.
pub(super) static TABLE_PAGES: Gauge = Gauge::new();
/// Bytes that nobody may use again, since something that might still reach them did not answer. Never goes down.
pub(super) static LOST_BYTES: Gauge = Gauge::new();

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
    let (commands, syncs, register_writes) = super::iommu::commands();
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
