//! Memory that already exists, lent to a device.

use crate::DmaError;
use addr::{AddrRange, Iova, PhysAddr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

/// Who writes and who reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// The device writes and reads.
    Bidirectional,
    /// The device reads only.
    ToDevice,
    /// The device writes only.
    FromDevice,
}

impl Direction {
    /// Whether the device may read: what the CPU wrote has to get there.
    pub const fn device_reads(self) -> bool {
        !matches!(self, Self::FromDevice)
    }
    /// Whether the device may write: what it wrote has to get here.
    pub const fn device_writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }
}

/// A piece of physical memory, not necessarily whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysSegment {
    /// The first byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: u64,
}

/// Memory that can be lent: owned, present and fixed in place until it is dropped.
///
/// # Safety
/// The segments, and the rest of the pages that they touch, are RAM that belongs to this value (or is pinned by it) and
/// stays so until it is dropped, whatever is written there: an IOMMU gives a device whole pages. They are the same at
/// each call. `bytes` shows the same memory.
pub unsafe trait StreamMemory: Send {
    /// The pieces, in order.
    fn segments(&self) -> &[PhysSegment];
    /// The memory as the kernel sees it, if it does.
    fn bytes(&mut self) -> Option<&mut [u8]>;
}

/// Memory that was not lent, and why.
pub struct StreamMapError {
    /// It belongs to the caller again.
    pub memory: Box<dyn StreamMemory>,
    /// What was wrong.
    pub error: DmaError,
}

impl fmt::Debug for StreamMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMapError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// Who lends memory to a device and takes it back.
pub trait StreamOps: Send + Sync {
    /// Makes what the device wrote visible to the CPU.
    fn sync_for_cpu(&self, lent: StreamMapping, memory: &mut dyn StreamMemory);
    /// Makes what the CPU wrote visible to the device.
    fn sync_for_device(&self, lent: StreamMapping, memory: &mut dyn StreamMemory);
    /// Ends the loan: [`StreamOps::sync_for_cpu`], and the device reaches the memory no more.
    ///
    /// # Errors
    /// When the IOMMU does not say that it has forgotten the mapping, nobody gets the memory back.
    fn unmap(
        &self,
        lent: StreamMapping,
        memory: Box<dyn StreamMemory>,
    ) -> Result<Box<dyn StreamMemory>, DmaError>;
}

/// A loan: where the memory is for the device, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamMapping {
    /// The device's addresses of the bytes.
    pub range: AddrRange<Iova>,
    /// Who writes and who reads.
    pub direction: Direction,
}

/// The owner is the CPU: it reads and writes, and the device must not be running on it.
#[derive(Debug)]
pub struct Cpu;
/// The owner is the device.
#[derive(Debug)]
pub struct Device;

/// A streaming mapping that belongs to `Owner`, [`Cpu`] or [`Device`]. Only the CPU's has bytes, only the device's has
/// an address to tell the device. Dropping it unmaps, and drops the memory.
pub struct Stream<Owner> {
    loan: MappingGuard,
    owner: PhantomData<Owner>,
}

struct MappingGuard {
    lender: Arc<dyn StreamOps>,
    lent: StreamMapping,
    /// `None` only while it ends.
    memory: Option<Box<dyn StreamMemory>>,
}

impl MappingGuard {
    fn end(&mut self) -> Option<Result<Box<dyn StreamMemory>, DmaError>> {
        Some(self.lender.unmap(self.lent, self.memory.take()?))
    }

    fn sync(&mut self, sync: impl FnOnce(&dyn StreamOps, StreamMapping, &mut dyn StreamMemory)) {
        if let Some(memory) = &mut self.memory {
            sync(&*self.lender, self.lent, &mut **memory);
        }
    }
}

impl Drop for MappingGuard {
    fn drop(&mut self) {
        // What does not come back stays where it is for good; the lender says so.
        drop(self.end());
    }
}

impl<Owner> Stream<Owner> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.loan.lent.range.len() as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.loan.lent.range.is_empty()
    }

    /// Who writes and who reads.
    pub fn direction(&self) -> Direction {
        self.loan.lent.direction
    }

    /// Ends the mapping, whoever owned it. The CPU sees what the device wrote.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`]: the memory is lost, since the device might still reach it.
    pub fn unmap(mut self) -> Result<Box<dyn StreamMemory>, DmaError> {
        self.loan.end().unwrap_or(Err(DmaError::IommuTimeout))
    }

    fn pass_on<Next>(self) -> Stream<Next> {
        Stream { loan: self.loan, owner: PhantomData }
    }
}

impl Stream<Device> {
    /// For providers: `memory` is lent, and synced for the device.
    pub fn new(lender: Arc<dyn StreamOps>, lent: StreamMapping, memory: Box<dyn StreamMemory>) -> Self {
        Self { loan: MappingGuard { lender, lent, memory: Some(memory) }, owner: PhantomData }
    }

    /// The device's address of the first byte.
    pub fn iova(&self) -> Iova {
        self.loan.lent.range.start()
    }

    /// Takes the memory from the device, which has finished with it (its interrupt came, say).
    pub fn sync_for_cpu(mut self) -> Stream<Cpu> {
        self.loan.sync(|lender, lent, memory| lender.sync_for_cpu(lent, memory));
        self.pass_on()
    }
}

impl Stream<Cpu> {
    /// The memory, if the kernel sees it: pages of a program it does not.
    pub fn bytes(&mut self) -> Option<&mut [u8]> {
        self.loan.memory.as_mut()?.bytes()
    }

    /// Gives the memory to the device.
    pub fn sync_for_device(mut self) -> Stream<Device> {
        self.loan.sync(|lender, lent, memory| lender.sync_for_device(lent, memory));
        self.pass_on()
    }
}

impl<Owner> fmt::Debug for Stream<Owner> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?}, {:?})", self.loan.lent.range, self.loan.lent.direction)
    }
}
