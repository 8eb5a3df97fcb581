//! Device drivers, the only code that accesses MMIO. The caller supplies registers, memory and DMA address
//! space.
//!
//! A driver takes `&mut self`, and neither locks nor prints. Operations that may take long are split into
//! start, poll and acknowledge, so that the caller can sleep until the interrupt.

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
pub mod pl031;
pub mod poll;
pub mod rate_limiter;
pub mod region;
pub mod smmu;
pub mod uart;
