//! What a driver may ask for when its device needs memory, and what it gets. The kernel provides it
//! ([`DmaSpace`]); `FakeSpace` (feature `fake`) does for host tests of drivers.
//!
//! The words are those of Linux's DMA API: *coherent* buffers ([`DmaSpace::alloc`]) that device and CPU may both use at
//! any time, and *streaming* mappings ([`DmaSpace::map`]) of memory that already exists, which belongs to one side at
//! a time.
//!
//! Unsafe code is in `view.rs`, where bytes are touched, and in `buffer.rs` and `fake.rs`, where a view is tied to
//! the memory it shows.

#![cfg_attr(not(test), no_std)]

extern crate alloc;
#[cfg(feature = "fake")]
extern crate std;

mod attrs;
mod buffer;
mod error;
#[cfg(feature = "fake")]
mod fake;
mod mask;
#[cfg(doctest)]
mod misuse;
mod stream;
mod view;

pub use attrs::Attrs;
pub use buffer::{BufferBacking, DmaBuffer};
pub use error::DmaError;
#[cfg(feature = "fake")]
pub use fake::{FakeFault, FakeMemory, FakeSpace};
pub use mask::DmaMask;
pub use stream::{
    Cpu, Device, Direction, PhysSegment, Stream, StreamMapError, StreamMapping, StreamMemory, StreamOps,
};
pub use view::KernelView;

use alloc::boxed::Box;

/// The address space of one device, as its driver sees it.
pub trait DmaSpace {
    /// What the device can address.
    fn mask(&self) -> DmaMask;

    /// Says what the device can address. A device starts with 32 bits. Buffers that it already has stay where they
    /// are.
    ///
    /// # Errors
    /// [`DmaError::PastMask`] when nothing at all could be reached.
    fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError>;

    /// A zero-filled coherent buffer of at least `len` bytes, in whole pages. All `attrs` are hints, but for
    /// [`Attrs::FORCE_CONTIGUOUS`]: the buffer says what it got.
    ///
    /// What the CPU writes through its view is seen by the device that looks after a later write to one of its
    /// registers, and what the device wrote before its interrupt is seen by the CPU after it, given the barriers that
    /// register access and interrupt entry bring.
    ///
    /// # Errors
    /// See [`DmaError`]; everything is as before.
    fn alloc(&self, len: usize, attrs: Attrs) -> Result<DmaBuffer, DmaError>;

    /// Gives `memory` to the device, as one range of its addresses.
    ///
    /// # Errors
    /// See [`DmaError`]; the memory comes back.
    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<Device>, StreamMapError>;
}
