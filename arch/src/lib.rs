//! The only instructions in Tessera: boot, MMU, TLB, caches, exceptions, timer, PSCI.
//!
//! Everything here exists twice. On the bare target it does what its name says; on a host, where `cargo test` runs,
//! the same functions write what they were asked into a log (`fake`), so that a test can compare the order of
//! maintenance with what the manual asks for. Section numbers without a document are those of DDI 0487, the Arm
//! Architecture Reference Manual.

#![cfg_attr(not(test), no_std)]
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod backtrace;
pub mod barrier;
pub mod boot;
pub mod cache;
pub mod context;
#[cfg(feature = "counters")]
pub mod counters;
pub mod cpu;
pub mod exception;
#[cfg(not(target_os = "none"))]
pub mod fake;
pub mod memory;
pub mod mmu;
pub mod monitor;
pub mod pointer;
pub mod probe;
pub mod psci;
pub mod timer;
pub mod tlb;
pub mod user_copy;
