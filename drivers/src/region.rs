//! Memory that a device reads or writes by physical address: queues, tables, rings.

use addr::PhysAddr;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Physically contiguous memory that one driver shares with its device, as 64-bit words.
///
/// The words are atomic because the device may access them at any moment. Accesses are relaxed: what has to be seen
/// before what is the driver's task (`arch::barrier`).
pub struct Region {
    start: PhysAddr,
    words: &'static [AtomicU64],
}

impl Region {
    /// The memory at `start`, reached by the CPU through `words`. Its maker promises that both are the same memory and
    /// that nobody else uses it until [`RegionSource::release`] gets it back.
    pub const fn new(start: PhysAddr, words: &'static [AtomicU64]) -> Self {
        Self { start, words }
    }

    /// The first byte, for the device.
    pub const fn start(&self) -> PhysAddr {
        self.start
    }

    /// The words, for the CPU.
    pub const fn words(&self) -> &'static [AtomicU64] {
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

/// Where regions come from: the kernel's lowmem, a test's arena.
pub trait RegionSource {
    /// `bytes` (a power of two, 4096 or more) of zeroed memory, physically contiguous and aligned to its size.
    fn allocate(&mut self, bytes: u64) -> Option<Region>;

    /// Takes a region back that its device cannot reach any more.
    fn release(&mut self, region: Region);
}
