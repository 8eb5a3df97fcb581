//! A Raspberry Pi's devices get their drivers.

use super::copier::{Copier, Model};
use crate::board::DmaEngine;
use crate::dma::{Device, Space};
use crate::irq;
use crate::memory::vmalloc::{self, RegistersError};
use alloc::boxed::Box;
use core::fmt;
use dma_api::DmaError;
use drivers::bcm2835::dma::DmaChannel;
use drivers::mmio::Mmio;

/// Why a device is left out.
enum Bcm2835Error {
    /// Its registers cannot be mapped.
    Map(RegistersError),
    /// It gets no memory.
    Dma(DmaError),
}

impl fmt::Display for Bcm2835Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Dma(error) => error.fmt(f),
        }
    }
}

/// Starts the driver of the DMA engine's first channel that is free.
pub fn start_dma(engine: &DmaEngine) -> Option<&'static Copier> {
    let started = start_channel(engine);
    match &started {
        Ok(copier) => log::info!("bcm2835-dma channel {}: {}", engine.channel, copier.summary()),
        Err(error) => log::warn!("bcm2835-dma: left out: {error}"),
    }
    started.ok()
}

fn start_channel(engine: &DmaEngine) -> Result<&'static Copier, Bcm2835Error> {
    let at = vmalloc::map_registers(engine.registers).map_err(Bcm2835Error::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word a channel's registers, which its mask leaves to
    // us; nothing else drives them.
    let registers = unsafe { Mmio::new(at.start()) };
    let device = Device::direct("bcm2835-dma".into(), engine.coherent, engine.windows.clone());
    let channel = DmaChannel::new(registers, &Space::new(device.clone())).map_err(Bcm2835Error::Dma)?;
    let copier: &Copier = Box::leak(Box::new(Copier::new(Model::Bcm2835Dma, device, channel)));
    match engine.interrupt.map(|interrupt| irq::register(interrupt, copier)) {
        Some(Ok(())) => copier.use_interrupt(),
        Some(Err(error)) => log::warn!("bcm2835-dma: polled: {error}"),
        None => {}
    }
    Ok(copier)
}
