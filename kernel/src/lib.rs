//! The kernel: memory management, DMA, processes, system calls and devices. [`boot`] is the boot sequence.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod board;
pub mod boot;
pub mod console;
pub mod debug;
pub mod devices;
pub mod dma;
pub mod firmware;
pub mod fs;
pub mod iommu;
pub mod irq;
pub mod memory;
pub mod msi;
pub mod panic;
pub mod percpu;
pub mod perf_counters;
pub mod power;
pub mod proc;
pub mod process;
pub mod sched;
pub mod smp;
pub mod sync;
pub mod syscall;
pub mod sysfs;
pub mod trap;
pub mod vfio;
pub mod vm;
