//! In-kernel verification: self-tests, benchmarks, the soak test, and their shared audit and fixtures.
//!
//! Uses the public interface of the kernel, which does not depend on this crate.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod audit;
pub mod bench;
pub mod cases;
#[cfg(feature = "checking")]
pub mod debug;
pub mod fixture;
pub mod soak;
