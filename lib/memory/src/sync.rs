//! The atomics of this crate: `core`'s, or loom's, which explore all permitted interleavings
//! (`tests/loom.rs`).

#[cfg(not(feature = "loom"))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
