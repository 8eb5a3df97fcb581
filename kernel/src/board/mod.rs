//! The description of the machine: the device tree parsed into plain values, and the boot arguments.
//!
//! The parser is pure: bytes in, descriptions out, no mapping and no MMIO. The device tree is untrusted
//! input: a malformed blob is a [`DeviceTreeError`], an invalid node is ignored with a [`Warning`] that
//! states the reason, and nothing panics.
//!
//! [`DeviceTree`] and [`BootArgs`] need no heap, since memory, console and arguments are read before the heap
//! exists; [`Platform`] is the complete description.

mod bootargs;
mod console;
mod cpus;
mod device_tree;
mod dma_ranges;
mod interrupts;
mod iommu_addresses;
mod memory;
mod node;
mod node_error;
mod pci;
mod platform;
mod platform_device;
mod sbsa_ref;
mod smmu;
mod translation;

#[cfg(test)]
pub(crate) mod tests;

pub use bootargs::{ArgumentError, BadArgument, BootArgs, BootArgument, Glob, Soak};
pub use console::{Uart, UartKind};
pub use cpus::{CpuDescription, EnableMethod, TimerInterrupts};
pub use device_tree::{DeviceTree, DeviceTreeError, MAX_DEVICE_TREE_BYTES, total_size};
pub use interrupts::{GicDescription, InterruptController, ItsDescription, V2mDescription};
pub use memory::Reservation;
pub use node::TreeNode;
pub use node_error::NodeError;
pub use platform::{Platform, Warning, merge_ranges};
pub use platform_device::PlatformDevice;
pub use smmu::SmmuDescription;
