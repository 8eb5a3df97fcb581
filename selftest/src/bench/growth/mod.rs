//! Growth of costs with the size of a buffer, the fragmentation of memory, the number of live buffers and the
//! number of attached streams. Each line has the varied parameter.

mod live;
mod pieces;
mod size;
mod streams;

pub use live::live;
pub use pieces::pieces;
pub use size::size;
pub use streams::streams;

use dma_api::Attrs;

/// The attributes of all buffers.
const ATTRS: Attrs = Attrs::NO_KERNEL_MAPPING;
