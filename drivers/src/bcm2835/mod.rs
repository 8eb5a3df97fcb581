//! Peripherals of the BCM2835, which all Raspberry Pi models contain.

pub mod dma;
pub mod mailbox;
pub mod watchdog;
