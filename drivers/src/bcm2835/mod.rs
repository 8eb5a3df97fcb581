//! What a Raspberry Pi has beside CPUs and interrupt controllers: the BCM2835's peripherals, kept by all models since.

pub mod dma;
pub mod mailbox;
pub mod watchdog;
