//! The DMA core: buffers made of chunks, the devices they are attached to, and streaming mappings.
//!
//! - [`coherent`]: allocation of a buffer for a device ([`alloc()`]), or for later attachments; a driver's [`Space`].
//! - [`ChunkedBuffer`], [`Attachment`]: a buffer lives until its last view is gone; an attachment is a view.
//! - [`stream`]: streaming mappings of existing memory.
//! - [`Device`], [`Domain`]: the IOVA space of a device; [`fault`] counts translation faults and quarantines a device.
//! - [`counters`], [`trace`]: costs, and the log of `dma.trace`.
//!
//! `doc/life-of-a-dma-buffer.md` follows one buffer in order.

mod attachment;
mod buffer;
pub mod coherent;
pub mod counters;
mod device;
pub mod domain;
pub mod fault;
mod frames;
mod iova_space;
mod request;
mod small_mappings;
pub mod stream;
pub mod trace;

pub use attachment::Attachment;
pub use buffer::{ChunkedBuffer, SyncFor};
pub use coherent::{Space, alloc, alloc_unattached};
pub use device::Device;
pub use domain::Domain;
pub use request::MapPlacement;
