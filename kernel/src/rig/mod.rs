//! What self-tests and benchmarks set up before they look: memory in pieces, work on many CPUs.

mod fragment;
mod threads;

pub use fragment::{Fragmented, take_all};
pub use threads::{elsewhere, run_each};
