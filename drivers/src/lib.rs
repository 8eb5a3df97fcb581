//! The only MMIO: drivers that say what they need (registers, memory, an address space) and never who provides it.
//!
//! A driver takes `&mut self`, never locks and never prints. What it waits for is split into start, poll and
//! acknowledge wherever the caller may prefer to sleep until an interrupt.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod bcm2835;
pub mod bcm2836;
pub mod direct;
pub mod dma_engine;
pub mod edu;
#[cfg(not(target_os = "none"))]
pub mod fake;
pub mod gic;
pub mod interrupts;
pub mod iommu;
pub mod mmio;
pub mod pcie;
pub mod region;
pub mod smmu;
pub mod uart;
