//! In-kernel verification: self-tests, benchmarks, the soak test, and the audits and fixtures they share.
//!
//! Uses the kernel's public interface; the product does not depend on it.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod audit;
pub mod bench;
pub mod cases;
#[cfg(feature = "checking")]
pub mod debug;
pub mod fixture;
pub mod soak;
