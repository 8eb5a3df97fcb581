//! What the machine is: the device tree turned into plain values, and the boot arguments.
//!
//! Everything here is pure: bytes in, descriptions out, nothing is mapped or touched. The tree comes from outside, so
//! nothing in it is believed: a damaged blob is a [`TreeError`], a node that makes no sense is left out with a
//! [`Warning`] that says why, and nothing panics.
//!
//! [`Tree`] and [`BootArgs`] need no heap, for what has to be known before there is one (memory, console, arguments);
//! [`Platform`] is the whole description.

mod address;
mod bootargs;
mod console;
mod dma_engine;
mod dma_ranges;
mod glob;
mod interrupts;
mod memory;
mod pci;
mod place;
mod platform;
mod processors;
mod sbsa_ref;
mod smmu;
mod tree;
mod warning;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod mutants;

pub use bootargs::{BadArgument, BootArgs, Soak, Why};
pub use console::{Uart, UartKind};
pub use dma_engine::{DmaEngine, FirmwareMailbox};
pub use glob::Glob;
pub use interrupts::{Gic, InterruptController};
pub use memory::Reservation;
pub use place::Place;
pub use platform::Platform;
pub use processors::{Cpu, Start, Timer};
pub use smmu::Smmu;
pub use tree::{MAX_TREE_BYTES, Tree, TreeError, total_size};
pub use warning::{Reason, Warning};
