//! Memory shared with a device by physical address: queues, tables, rings.

use addr::PhysAddr;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Physically contiguous memory that a driver shares with its device, as 64-bit words.
///
/// The words are atomic because the device may access them at any time. Accesses are relaxed: the driver
/// provides the ordering (`arch::barrier`).
pub struct Region {
    start: PhysAddr,
    words: &'static [AtomicU64],
}

impl Region {
    /// The memory at `start`, which the CPU accesses through `words`.
    ///
    /// # Safety
    /// Both are the same memory, without other users until [`RegionSource::release`].
    pub const unsafe fn new(start: PhysAddr, words: &'static [AtomicU64]) -> Self {
        Self { start, words }
    }

    /// Physical address of the first byte.
    pub const fn start(&self) -> PhysAddr {
        self.start
    }

    /// The words.
    pub const fn words(&self) -> &[AtomicU64] {
        self.words
    }

    /// The length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// Stores `values` from word `first` on. Panics past the end.
    pub fn store(&self, first: usize, values: &[u64]) {
        for (word, &value) in self.words[first..first + values.len()].iter().zip(values) {
            word.store(value, Relaxed);
        }
    }

    /// Loads `N` words from word `first` on. Panics past the end.
    pub fn load<const N: usize>(&self, first: usize) -> [u64; N] {
        core::array::from_fn(|word| self.words[first + word].load(Relaxed))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:#x}+{:#x})", self.start, self.bytes())
    }
}

/// Allocator of regions: the kernel's lowmem, or a test's RAM.
pub trait RegionSource {
    /// Allocates `bytes` (a power of two, at least 4096) of zeroed memory, physically contiguous and aligned
    /// to its size.
    fn allocate(&mut self, bytes: u64) -> Option<Region>;

    /// Frees a region that its device can no longer access.
    fn release(&mut self, region: Region);
}
