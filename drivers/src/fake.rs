//! Host builds only: plain memory in place of registers. It has no behaviour: the test acts as the device
//! between two steps of the driver.

use alloc::boxed::Box;

use crate::mmio::{Mmio, MmioWindow};
use addr::KernelVa;

use core::sync::atomic::{AtomicU32, Ordering};

/// Zeroed memory in place of a driver's registers. Values are accessed by offset in bytes.
pub struct FakeRegisters {
    words: &'static [AtomicU32],
}

#[repr(C, align(65536))]
struct Aligned([u32; 64 * 1024 / 4]);

impl FakeRegisters {
    /// `len` bytes (a multiple of 4), zeroed and aligned to 64 KiB. They are never freed, like a driver's
    /// registers.
    pub fn new(len: usize) -> Self {
        assert!(len.is_multiple_of(4), "not whole registers: {len}");
        let blocks = Box::<[Aligned]>::new_zeroed_slice(len.div_ceil(size_of::<Aligned>()).max(1));
        // SAFETY: zero is a valid `u32`.
        let blocks = unsafe { blocks.assume_init() };
        let start = Box::leak(blocks).as_mut_ptr().cast::<AtomicU32>();
        // SAFETY: `AtomicU32` has the layout of the `u32`s that were leaked here, which nothing else refers
        // to; `len` was rounded up when they were allocated.
        Self { words: unsafe { core::slice::from_raw_parts(start, len / 4) } }
    }

    /// The memory as registers of the layout `T`.
    pub fn mmio<T>(&self) -> Mmio<T> {
        assert!(size_of::<T>() <= self.words.len() * 4, "the fake is smaller than its registers");
        // SAFETY: leaked memory of at least this size; the test and the driver take turns on one thread.
        unsafe { Mmio::new(self.address()) }
    }

    /// The memory as a window.
    pub fn window(&self) -> MmioWindow {
        // SAFETY: as in `mmio`.
        unsafe { MmioWindow::new(self.address(), self.words.len() as u64 * 4) }
    }

    /// The address of the memory.
    pub fn address(&self) -> KernelVa {
        KernelVa::new(self.words.as_ptr().expose_provenance() as u64)
    }

    /// Zeroes all registers, as after [`FakeRegisters::new`].
    pub fn clear(&self) {
        let start = self.words.as_ptr().cast_mut();
        // SAFETY: atomics may be written through a shared reference; the slice is in bounds of itself, and
        // test and driver take turns on one thread.
        unsafe { start.write_bytes(0, self.words.len()) };
    }

    /// The 32 bits at `offset`.
    pub fn get32(&self, offset: usize) -> u32 {
        self.words[offset / 4].load(Ordering::Relaxed)
    }

    /// Sets the 32 bits at `offset`.
    pub fn set32(&self, offset: usize, value: u32) {
        self.words[offset / 4].store(value, Ordering::Relaxed);
    }

    /// The 64 bits at `offset`.
    pub fn get64(&self, offset: usize) -> u64 {
        u64::from(self.get32(offset)) | u64::from(self.get32(offset + 4)) << 32
    }

    /// Sets the 64 bits at `offset`.
    pub fn set64(&self, offset: usize, value: u64) {
        self.set32(offset, value as u32);
        self.set32(offset + 4, (value >> 32) as u32);
    }
}
