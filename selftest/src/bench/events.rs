//! The event counts of the feature `counters`, for the benchmarks in the kernel and, as `/dev/events`, for
//! programs.

use ::alloc::boxed::Box;
use ::alloc::string::ToString;
use abi::Errno;
use addr::UserVa;
use core::array;
use core::fmt;
use kernel::dma::counters;
use kernel::fs::File;
use kernel::fs::char_device::{self, DeviceNumber};
use kernel::perf_counters;
use kernel::vm::access::UserMemory;

/// Event counts of all CPUs, in the order of [`EventCounts::NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventCounts(pub [u64; EventCounts::NAMES.len()]);

impl EventCounts {
    /// Descriptor stores; page-table allocations; IOMMU commands, `CMD_SYNC` included; `CMD_SYNC` alone;
    /// IOMMU register writes; TLBI instructions; DSB, DMB and ISB instructions.
    pub const NAMES: [&'static str; 7] =
        ["stores", "tables", "commands", "syncs", "mmio", "tlbis", "barriers"];

    /// Returns the difference to the `earlier` counts.
    pub fn since(self, earlier: Self) -> Self {
        Self(array::from_fn(|n| self.0[n] - earlier.0[n]))
    }
}

impl fmt::Display for EventCounts {
    /// `stores=1 tables=0 ..`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Self::NAMES.iter().zip(self.0);
        words.try_for_each(|(name, count)| write!(f, "{name}={count} "))
    }
}

/// Returns the counts since boot.
pub fn read() -> EventCounts {
    let iommu = counters::read();
    EventCounts([
        perf_counters::descriptor_stores(),
        perf_counters::table_allocations(),
        iommu.commands,
        iommu.syncs,
        iommu.register_writes,
        arch::counters::tlb_invalidations(),
        arch::counters::barriers(),
    ])
}

const NUMBER: DeviceNumber = DeviceNumber { major: 242, minor: 0 };

/// Registers `/dev/events`. Called before the initramfs is mounted.
pub fn register() {
    let registered = char_device::register(&["/dev/events"], NUMBER, || Ok(Box::new(EventsFile)));
    if let Err(error) = registered {
        log::error!("bench: {error}");
    }
}

/// Each read returns the current counts, as words `name=count`.
struct EventsFile;

impl File for EventsFile {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let text = read().to_string();
        let bytes = &text.as_bytes()[..text.len().min(len)];
        memory.write_bytes(to, bytes)?;
        Ok(bytes.len())
    }
}
