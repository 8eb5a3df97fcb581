//! A Raspberry Pi's devices get their drivers.

use super::copier::{Copier, Model};
use crate::board::{DmaEngine, FirmwareMailbox};
use crate::dma::{Device, Space};
use crate::irq;
use crate::memory::vmalloc::{self, RegistersError};
use addr::Size;
use alloc::boxed::Box;
use arch::timer::Deadline;
use core::fmt;
use dma_api::DmaError;
use drivers::bcm2835::dma::DmaChannel;
use drivers::bcm2835::mailbox::{Mailbox, MailboxError, Tag};
use drivers::mmio::Mmio;

/// Why a device is left out.
enum Bcm2835Error {
    /// Its registers cannot be mapped.
    Map(RegistersError),
    /// It gets no memory.
    Dma(DmaError),
    /// It does not answer.
    Mailbox(MailboxError),
}

/// How long the firmware may think about one question.
const PATIENCE_NS: u64 = 100_000_000;

impl fmt::Display for Bcm2835Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Dma(error) => error.fmt(f),
            Self::Mailbox(error) => error.fmt(f),
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

/// Asks the firmware what this board is, and says it. The mailbox is left as it was.
pub fn describe_board(mailbox: &FirmwareMailbox) {
    if let Err(error) = ask_firmware(mailbox) {
        log::warn!("firmware: {error}");
    }
}

fn ask_firmware(described: &FirmwareMailbox) -> Result<(), Bcm2835Error> {
    let at = vmalloc::map_registers(described.registers).map_err(Bcm2835Error::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word a mailbox's registers, long enough (the board
    // code has checked); nothing else drives them.
    let registers = unsafe { Mmio::new(at.start()) };
    let device = Device::direct("bcm2835-mbox".into(), described.coherent, described.windows.clone());
    let mut mailbox = Mailbox::new(registers, &Space::new(device)).map_err(Bcm2835Error::Dma)?;
    let mut ask = |tag| {
        let deadline = Deadline::in_ns(PATIENCE_NS);
        mailbox.ask(tag, || deadline.passed())
    };
    let mut answers = || -> Result<_, MailboxError> {
        let ([built, _], [revision, _]) = (ask(Tag::FirmwareRevision)?, ask(Tag::BoardRevision)?);
        let ([low, high], [start, len]) = (ask(Tag::BoardSerial)?, ask(Tag::ArmMemory)?);
        Ok((built, revision, u64::from(high) << 32 | u64::from(low), start, len))
    };
    match answers() {
        Ok((built, revision, serial, start, len)) => {
            let len = Size(len.into());
            log::info!(
                "firmware {built:#x}: board {revision:#x}, serial {serial:#x}, {len} for CPUs from {start:#x}"
            );
            Ok(())
        }
        Err(error) => {
            // It may still write to the message: that page is nobody else's ever again.
            core::mem::forget(mailbox);
            Err(Bcm2835Error::Mailbox(error))
        }
    }
}
