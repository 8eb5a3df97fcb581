//! Hooks of the checking build (feature `checking`): fail points, frame poison, canaries, and names of mappings.
//!
//! The kernel calls a hook where something can fail and where memory changes hands. The checks themselves are outside of
//! the kernel and register with `install`. In the product every hook is an empty inline function and [`DebugTag`] has
//! no size.

#[cfg(not(feature = "checking"))]
mod disabled;
#[cfg(feature = "checking")]
mod enabled;

use addr::StreamId;
#[cfg(not(feature = "checking"))]
pub use disabled::*;
#[cfg(feature = "checking")]
pub use enabled::*;

/// Whether this is the checking build.
pub const ENABLED: bool = cfg!(feature = "checking");

/// Unmapped bytes behind each range of device addresses.
pub const GUARD_BYTES: u64 = if ENABLED { addr::PAGE_SIZE } else { 0 };

/// An operation that fault injection can make fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailPoint {
    /// The allocation of frames.
    Frames,
    /// The allocation of a frame for a page table.
    Tables,
    /// A mapping in a page table.
    Maps,
    /// The allocation of a range of device addresses.
    Iova,
    /// The allocation of a range of kernel addresses.
    Vmalloc,
    /// A heap allocation that may fail.
    Heap,
    /// The completion of a CMD_SYNC in time.
    Syncs,
    /// The acceptance of an SMMU command.
    Commands,
    /// The arrival of a device interrupt.
    Interrupts,
}

/// The last owner of a frame, recorded when the frame is freed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LastOwner {
    #[default]
    Unknown = 1,
    /// A DMA buffer.
    Buffer,
    /// Kernel memory in a streaming mapping.
    Stream,
    /// Anonymous memory of a process.
    Process,
    PageTable,
    KernelStack,
    /// Stream tables, context descriptors and queues of an IOMMU.
    Iommu,
    /// A holder that did not write the frame; it is not poisoned.
    Untouched,
}

/// A device behind an SMMU, as hooks name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamKey {
    /// The address of the SMMU's kernel object.
    pub smmu: usize,
    pub stream: StreamId,
}

/// The IOVA space of a device: the address of its domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DomainKey(pub usize);
