//! The DMA core: buffers made of chunks, the devices they are attached to, and streaming mappings.
//!
//! - [`coherent`]: coherent allocation for a device ([`alloc()`]) or for later attachments; a driver's
//!   [`Space`].
//! - [`ChunkedBuffer`], [`Attachment`]: a buffer is freed with its last view; an attachment is a view.
//! - [`stream`]: streaming mappings of existing memory.
//! - [`Device`], [`Domain`]: a device and its IOVA space; [`fault`] counts translation faults and quarantines
//!   devices.
//! - [`counters`], [`trace`]: memory and IOVA usage, and the lines of `dma.trace`.
//!
//! `doc/life-of-a-dma-buffer.md` follows a buffer from allocation to free.

mod attachment;
mod buffer;
pub mod coherent;
pub mod counters;
mod device;
mod domain;
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
pub use device::{Device, OwnerNotification, attached_devices};
pub use domain::Domain;
pub use request::MapPlacement;
