//! How costs grow: with the size of a buffer, with the pieces that memory is in, with the buffers that live
//! already, with the streams that are attached. Each line says what was varied.

mod live;
mod pieces;
mod size;
mod streams;

pub use live::live;
pub use pieces::pieces;
pub use size::size;
pub use streams::streams;

use dma_api::Attrs;

/// How all buffers here are asked for.
const ATTRS: Attrs = Attrs::NO_KERNEL_MAPPING;
