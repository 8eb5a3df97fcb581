//! The atomics of this crate: the processor's, or loom's, which try everything that other threads may see
//! (`tests/loom.rs`).

#[cfg(not(feature = "loom"))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
