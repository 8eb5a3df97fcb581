//! Kernel stacks: 16 KiB of lowmem, mapped in an area of their own with an unmapped page on either side.

use crate::debug::LastOwner;
use crate::memory::vmalloc::{KernelMapping, STACKS, VmallocError};
use crate::memory::zones;
use addr::{AddrRange, KernelVa, MemoryType, Order, PAGE_SIZE};
use core::iter;
use memory::{OwnedChunk, Reach};
use pagetable::Mapping;

/// Frames of a stack.
const ORDER: u8 = 2;

/// Why there is no stack.
#[derive(Debug)]
pub enum StackError {
    /// Lowmem is used up.
    OutOfFrames,
    /// It cannot be mapped.
    Map(VmallocError),
}

/// A stack of its own; dropped, its frames are free again.
#[derive(Debug)]
pub struct KernelStack {
    mapped: Option<KernelMapping>,
    /// `None` only while it is dropped.
    frames: Option<OwnedChunk>,
}

impl KernelStack {
    /// A new stack.
    pub fn new() -> Result<Self, StackError> {
        let order = Order::new(ORDER).unwrap_or(Order::PAGE);
        let frames = zones::alloc(order, Reach::LOW).ok_or(StackError::OutOfFrames)?;
        // From here on a failure gives the frames back.
        let chunk = frames.chunk();
        let mut stack = Self { mapped: None, frames: Some(frames) };
        let mapping = Mapping::read_write(MemoryType::WriteBack);
        // SAFETY: the stack owns the chunk, and drops the mapping before it; the linear alias is write-back too.
        let mapped = unsafe { STACKS.map(iter::once(chunk), PAGE_SIZE, mapping) };
        stack.mapped = Some(mapped.map_err(StackError::Map)?);
        Ok(stack)
    }

    /// Where it is.
    pub fn range(&self) -> AddrRange<KernelVa> {
        self.mapped.as_ref().map_or(AddrRange::EMPTY, KernelMapping::range)
    }

    /// What SP starts with.
    pub fn top(&self) -> KernelVa {
        self.range().end()
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        self.mapped = None;
        if let Some(frames) = self.frames.take() {
            zones::free_from(frames, LastOwner::KernelStack);
        }
    }
}
