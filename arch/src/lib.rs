//! All inline and global assembly of Tessera: boot, MMU, TLB, caches, exceptions, timer, PSCI.
//!
//! Every function has two implementations. The bare target's executes the instructions; the host's, used by
//! `cargo test`, appends them to a log (`fake`), so that tests can check the order of maintenance against the
//! manual. Section numbers without a document are those of DDI 0487, the Arm Architecture Reference Manual.

#![cfg_attr(not(test), no_std)]
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod backtrace;
pub mod barrier;
pub mod boot;
pub mod cache;
pub mod context;
pub mod counters;
pub mod cpu;
mod errata;
pub mod exception;
#[cfg(not(target_os = "none"))]
pub mod fake;
pub mod irqsoff;
pub mod memory;
pub mod mmu;
pub mod monitor;
pub mod pointer;
pub mod probe;
pub mod psci;
pub mod timer;
pub mod tlb;
mod tlb_level;
pub mod user_copy;
pub mod vdso;
