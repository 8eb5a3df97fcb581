//! What self-tests and benchmarks set up before they look: memory in pieces, work on many CPUs.

mod fragment;
mod threads;

pub use fragment::{Fragmented, take_all};
pub use threads::{elsewhere, run_each};

/// How long a self-test waits for what comes at once where nobody else wants the host: it ends a wait for what never comes,
/// and says nothing about how fast a machine is.
pub const PATIENCE_NS: u64 = 60_000_000_000;
