//! Streaming mappings: existing memory, mapped for a device.

use crate::DmaError;
use addr::{AddrRange, Iova, PhysAddr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

/// The direction of a transfer, as Linux's `dma_data_direction`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// The device reads and writes.
    Bidirectional,
    /// The device reads only.
    ToDevice,
    /// The device writes only.
    FromDevice,
}

impl Direction {
    /// Whether the device may read: the CPU's writes have to reach it.
    pub const fn device_reads(self) -> bool {
        !matches!(self, Self::FromDevice)
    }
    /// Whether the device may write: its writes have to reach the CPU.
    pub const fn device_writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }
}

/// A range of physical memory, not necessarily whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysSegment {
    /// The first byte.
    pub start: PhysAddr,
    /// The length in bytes.
    pub len: u64,
}

/// Memory that can be mapped for a device: owned, present and fixed in place until it is dropped.
///
/// # Safety
/// The segments, and the rest of the pages that they touch, are RAM that belongs to this value (or is pinned
/// by it) until it is dropped, and any content is valid there: an IOMMU maps whole pages for a device. Each
/// call returns the same segments. `bytes` shows the same memory.
pub unsafe trait StreamMemory: Send {
    /// The segments, in order.
    fn segments(&self) -> &[PhysSegment];
    /// The memory at its kernel address, if it has one.
    fn bytes(&mut self) -> Option<&mut [u8]>;
}

/// Memory that could not be mapped, and the reason.
pub struct StreamMapError {
    /// The memory, which belongs to the caller again.
    pub memory: Box<dyn StreamMemory>,
    /// The reason.
    pub error: DmaError,
}

impl fmt::Debug for StreamMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMapError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// The provider of streaming mappings: cache maintenance and unmapping.
///
/// # Safety
/// `unmap` returns the memory only when the device can no longer access it, and otherwise never drops it. The
/// memory is that of `mapping`.
pub unsafe trait StreamOps: Send + Sync {
    /// Makes the device's writes visible to the CPU.
    fn sync_for_cpu(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory);
    /// Makes the CPU's writes visible to the device.
    fn sync_for_device(&self, mapping: StreamMapping, memory: &mut dyn StreamMemory);
    /// Unmaps the memory and syncs it for the CPU ([`StreamOps::sync_for_cpu`]).
    ///
    /// # Errors
    /// When the IOMMU does not confirm the invalidation, the memory is leaked.
    fn unmap(
        &self,
        mapping: StreamMapping,
        memory: Box<dyn StreamMemory>,
    ) -> Result<Box<dyn StreamMemory>, DmaError>;
}

/// The device addresses and the direction of a streaming mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamMapping {
    range: AddrRange<Iova>,
    direction: Direction,
}

impl StreamMapping {
    /// The mapping of some memory at `range`.
    ///
    /// # Safety
    /// The device reaches the memory at `range` and nowhere else, and the value is used only with that
    /// memory, for one [`Stream`]: [`StreamOps::unmap`] takes the range away and returns the memory to its
    /// owner.
    pub const unsafe fn new(range: AddrRange<Iova>, direction: Direction) -> Self {
        Self { range, direction }
    }

    /// The device's addresses of the bytes.
    pub const fn range(&self) -> AddrRange<Iova> {
        self.range
    }

    /// The direction of transfers.
    pub const fn direction(&self) -> Direction {
        self.direction
    }
}

/// Owner of a [`Stream`]: the CPU. It reads and writes; the device must not be using the memory.
#[derive(Debug)]
pub struct CpuOwned;
/// Owner of a [`Stream`]: the device.
#[derive(Debug)]
pub struct DeviceOwned;

/// A streaming mapping owned by `Owner`, [`CpuOwned`] or [`DeviceOwned`]. Only `Stream<CpuOwned>` gives
/// access to the bytes, only `Stream<DeviceOwned>` has the address for the device. Dropping it unmaps the
/// memory and drops it.
pub struct Stream<Owner> {
    guard: MappingGuard,
    owner: PhantomData<Owner>,
}

/// Unmaps on drop.
struct MappingGuard {
    ops: Arc<dyn StreamOps>,
    mapping: StreamMapping,
    /// `None` only during the unmap.
    memory: Option<Box<dyn StreamMemory>>,
}

impl MappingGuard {
    fn unmap(&mut self) -> Option<Result<Box<dyn StreamMemory>, DmaError>> {
        Some(self.ops.unmap(self.mapping, self.memory.take()?))
    }

    fn sync(&mut self, sync: impl FnOnce(&dyn StreamOps, StreamMapping, &mut dyn StreamMemory)) {
        if let Some(memory) = &mut self.memory {
            sync(&*self.ops, self.mapping, &mut **memory);
        }
    }
}

impl Drop for MappingGuard {
    fn drop(&mut self) {
        // After an error the memory is leaked; the provider reports it.
        drop(self.unmap());
    }
}

impl<Owner> Stream<Owner> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.guard.mapping.range.len() as usize
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.guard.mapping.range.is_empty()
    }

    /// The direction of transfers.
    pub fn direction(&self) -> Direction {
        self.guard.mapping.direction
    }

    /// Ends the mapping, whichever owner it has. The CPU observes the device's writes.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`]: the memory is lost, since the device might still reach it.
    pub fn unmap(mut self) -> Result<Box<dyn StreamMemory>, DmaError> {
        self.guard.unmap().unwrap_or(Err(DmaError::IommuTimeout))
    }

    fn with_owner<Next>(self) -> Stream<Next> {
        Stream { guard: self.guard, owner: PhantomData }
    }
}

impl Stream<DeviceOwned> {
    /// The stream of `memory`, which is mapped and synced for the device. For providers.
    pub fn new(ops: Arc<dyn StreamOps>, mapping: StreamMapping, memory: Box<dyn StreamMemory>) -> Self {
        Self { guard: MappingGuard { ops, mapping, memory: Some(memory) }, owner: PhantomData }
    }

    /// The device's address of the first byte.
    pub fn iova(&self) -> Iova {
        self.guard.mapping.range.start()
    }

    /// Transfers ownership to the CPU. The device must have finished with the memory, for example raised its
    /// interrupt.
    pub fn sync_for_cpu(mut self) -> Stream<CpuOwned> {
        self.guard.sync(|ops, mapping, memory| ops.sync_for_cpu(mapping, memory));
        self.with_owner()
    }
}

impl Stream<CpuOwned> {
    /// The memory, if it has a kernel address: pages of a program have none.
    pub fn bytes(&mut self) -> Option<&mut [u8]> {
        self.guard.memory.as_mut()?.bytes()
    }

    /// Transfers ownership to the device.
    pub fn sync_for_device(mut self) -> Stream<DeviceOwned> {
        self.guard.sync(|ops, mapping, memory| ops.sync_for_device(mapping, memory));
        self.with_owner()
    }
}

impl<Owner> fmt::Debug for Stream<Owner> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?}, {:?})", self.guard.mapping.range, self.guard.mapping.direction)
    }
}
