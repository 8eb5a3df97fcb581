//! Hooks of the checking build (feature `checking`): fail points of fault injection, frame poison, canaries,
//! names of mappings, and the time with interrupts masked.
//!
//! The kernel calls a hook where an operation can fail and where the owner of memory changes. The checks
//! themselves are outside of the kernel and register with `install`. In the product all hooks are empty
//! inline functions and [`DebugTag`] is zero-sized.

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

/// The size of the guard page behind each allocated IOVA range.
pub const GUARD_BYTES: u64 = if ENABLED { addr::PAGE_SIZE } else { 0 };

/// A class of operations that fault injection can make fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailPoint {
    /// The allocation of frames.
    Frames,
    /// The allocation of a frame for a page table.
    Tables,
    /// A mapping in a page table.
    Maps,
    /// The allocation of an IOVA range.
    Iova,
    /// The allocation of a range of kernel addresses.
    Vmalloc,
    /// A fallible heap allocation.
    Heap,
    /// The completion of a CMD_SYNC within its timeout.
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
    /// An owner that did not write to the frame, so it is not poisoned.
    Untouched,
}

/// The identity of a device behind an SMMU in hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamKey {
    /// The address of the SMMU's driver object.
    pub smmu: usize,
    pub stream: StreamId,
}

/// The identity of an IOVA space in hooks: the address of its domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DomainKey(pub usize);
