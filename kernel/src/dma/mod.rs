//! The DMA core: buffers made of chunks, the devices they are attached to, and memory lent to devices.
//!
//! - [`coherent`]: [`alloc`](coherent::alloc) a buffer for a device, or for devices to come; a driver's [`Space`].
//! - [`Buffer`], [`Attachment`]: a buffer lives until its last view is gone, an attachment is one of them.
//! - [`stream`]: lend memory that exists already.
//! - [`Device`], [`Domain`]: who can reach what, at which addresses; [`iommu`] has the SMMU's locks, [`quarantine`] what
//!   becomes of a device that tries more.
//! - [`counters`], [`trace`]: what it costs, what happens.
//!
//! `doc/life-of-a-dma-buffer.md` tells it in order.

mod attachment;
mod buffer;
pub mod coherent;
pub mod counters;
mod device;
pub mod domain;
#[cfg(feature = "counters")]
pub mod events;
mod frames;
pub mod iommu;
mod loudest;
mod notices;
pub mod quarantine;
mod small;
pub mod stream;
pub mod trace;
mod translated;

pub use attachment::Attachment;
pub use buffer::{Buffer, Side};
pub use coherent::{Space, alloc, alloc_unattached};
pub use device::Device;
pub use domain::{Domain, Fit};
