//! The DMA API of drivers. The kernel implements it ([`DmaSpace`]); `FakeSpace` (feature `fake`) is the
//! implementation for host tests of drivers.
//!
//! The terms are those of Linux's DMA API: *coherent* buffers ([`DmaSpace::alloc`]), which device and CPU may
//! use at the same time, and *streaming* mappings ([`DmaSpace::map`]) of existing memory, which is owned by
//! one side at a time.
//!
//! Unsafe code is in `view.rs`, which accesses the bytes, and in `buffer.rs` and `fake.rs`, which create
//! views.

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
    CpuOwned, DeviceOwned, Direction, PhysSegment, Stream, StreamMapError, StreamMapping, StreamMemory,
    StreamOps,
};
pub use view::KernelView;

use alloc::boxed::Box;

/// The DMA address space of one device.
pub trait DmaSpace {
    /// The device's DMA mask.
    fn mask(&self) -> DmaMask;

    /// Sets the DMA mask, which is 32 bits at first. Existing buffers keep their addresses.
    ///
    /// # Errors
    /// [`DmaError::PastMask`] if no memory is addressable with the mask.
    fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError>;

    /// Allocates a zero-filled coherent buffer of at least `len` bytes, in whole pages. All `attrs` are
    /// hints, except [`Attrs::FORCE_CONTIGUOUS`].
    ///
    /// The CPU's writes through its view are visible to device reads that follow a later write to a device
    /// register. The device's writes before its interrupt are visible to the CPU after the interrupt. The
    /// barriers of register access and interrupt entry provide this.
    ///
    /// # Errors
    /// See [`DmaError`]; nothing has changed.
    fn alloc(&self, len: usize, attrs: Attrs) -> Result<DmaBuffer, DmaError>;

    /// Maps `memory` for the device, as one range of its addresses.
    ///
    /// # Errors
    /// See [`DmaError`]; the error returns the memory.
    fn map(
        &self,
        memory: Box<dyn StreamMemory>,
        direction: Direction,
    ) -> Result<Stream<DeviceOwned>, StreamMapError>;
}
