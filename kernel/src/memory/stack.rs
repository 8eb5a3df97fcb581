//! Kernel stacks: 16 KiB of lowmem, mapped in an address range of their own with a guard page on either side.

use crate::debug::LastOwner;
use crate::memory::vmalloc::{KernelMapping, STACKS, VmallocError};
use crate::memory::zones;
use addr::{AddrRange, KernelVa, MemoryType, Order, PAGE_SIZE};
use core::iter;
use memory::{OwnedChunk, Reach};
use pagetable::Mapping;

/// The order of a stack: 4 frames.
const ORDER: u8 = 2;

/// A stack cannot be allocated.
#[derive(Debug)]
pub enum StackError {
    /// Lowmem is exhausted.
    OutOfFrames,
    /// The stack cannot be mapped.
    Map(VmallocError),
}

/// A kernel stack. Dropping it unmaps and frees its frames.
#[derive(Debug)]
pub struct KernelStack {
    mapped: Option<KernelMapping>,
    /// `None` only during the drop.
    frames: Option<OwnedChunk>,
}

impl KernelStack {
    /// Allocates and maps a stack.
    pub fn new() -> Result<Self, StackError> {
        let order = Order::new(ORDER).unwrap_or(Order::PAGE);
        let frames = zones::alloc(order, Reach::LOW).ok_or(StackError::OutOfFrames)?;
        // From here on an error drops `stack`, which frees the frames.
        let chunk = frames.chunk();
        let mut stack = Self { mapped: None, frames: Some(frames) };
        let mapping = Mapping::read_write(MemoryType::WriteBack);
        // SAFETY: the stack owns the chunk, and drops the mapping before it; the linear alias is write-back
        // too.
        let mapped = unsafe { STACKS.map(iter::once(chunk), PAGE_SIZE, mapping) };
        stack.mapped = Some(mapped.map_err(StackError::Map)?);
        Ok(stack)
    }

    /// The address range.
    pub fn range(&self) -> AddrRange<KernelVa> {
        self.mapped.as_ref().map_or(AddrRange::EMPTY, KernelMapping::range)
    }

    /// The initial stack pointer.
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
