//! A Raspberry Pi's devices get their drivers.

use super::dma_engine::{DmaEngineDevice, Model};
use crate::board::{DmaChannelDescription, FirmwareMailbox};
use crate::dma::{Device, Space};
use crate::irq;
use crate::memory::vmalloc::{self, MapRegistersError};
use addr::{AddrRange, PhysAddr, Size};
use alloc::boxed::Box;
use arch::timer::Deadline;
use core::fmt;
use dma_api::DmaError;
use drivers::bcm2835::dma::DmaChannel;
use drivers::bcm2835::mailbox::{Framebuffer, Mailbox, MailboxError, PropertyTag};
use drivers::mmio::{Mmio, MmioWindow};

/// Why a device is left out.
enum Bcm2835Error {
    /// Its registers cannot be mapped.
    Map(MapRegistersError),
    /// It gets no memory.
    Dma(DmaError),
    /// It does not answer.
    Mailbox(MailboxError),
    /// The picture that it gives lies in memory that is not its own.
    Misplaced(PhysAddr),
}

/// The picture: 8 by 6 tiles.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
const TILE: u32 = 80;

/// How long the firmware may think about one question.
const PATIENCE_NS: u64 = 100_000_000;

impl fmt::Display for Bcm2835Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Dma(error) => error.fmt(f),
            Self::Mailbox(error) => error.fmt(f),
            Self::Misplaced(start) => write!(f, "a picture at {start}, in memory for CPUs"),
        }
    }
}

/// Starts the driver of the DMA engine's first channel that is free.
pub fn start_dma(channel: &DmaChannelDescription) -> Option<&'static DmaEngineDevice> {
    let started = start_channel(channel);
    match &started {
        Ok(engine) => log::info!("bcm2835-dma channel {}: {}", channel.channel, engine.summary()),
        Err(error) => log::warn!("bcm2835-dma: ignored: {error}"),
    }
    started.ok()
}

fn start_channel(described: &DmaChannelDescription) -> Result<&'static DmaEngineDevice, Bcm2835Error> {
    let at = vmalloc::map_registers(described.registers).map_err(Bcm2835Error::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word a channel's registers, which its mask leaves to
    // us; nothing else drives them.
    let registers = unsafe { Mmio::new(at.start()) };
    let device = Device::direct("bcm2835-dma".into(), described.coherent, described.windows.clone());
    let channel = DmaChannel::new(registers, &Space::new(device.clone())).map_err(Bcm2835Error::Dma)?;
    let engine: &DmaEngineDevice =
        Box::leak(Box::new(DmaEngineDevice::new(Model::Bcm2835Dma, device, channel)));
    match described.interrupt.map(|interrupt| irq::register(interrupt, engine)) {
        Some(Ok(())) => engine.use_interrupt(),
        Some(Err(error)) => log::warn!("bcm2835-dma: polled: {error}"),
        None => {}
    }
    Ok(engine)
}

/// Asks the firmware what this board is, and says it; then shows a picture, if there is a screen. The mailbox is left as it
/// was. The picture has to be outside of `memory`.
pub fn ask_firmware(mailbox: &FirmwareMailbox, memory: &[AddrRange<PhysAddr>]) {
    if let Err(error) = describe_and_show(mailbox, memory) {
        log::warn!("firmware: {error}");
    }
}

fn describe_and_show(
    described: &FirmwareMailbox,
    memory: &[AddrRange<PhysAddr>],
) -> Result<(), Bcm2835Error> {
    let at = vmalloc::map_registers(described.registers).map_err(Bcm2835Error::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word a mailbox's registers, long enough (the board
    // code has checked); nothing else drives them.
    let registers = unsafe { Mmio::new(at.start()) };
    let device = Device::direct("bcm2835-mbox".into(), described.coherent, described.windows.clone());
    let mut mailbox = Mailbox::new(registers, &Space::new(device)).map_err(Bcm2835Error::Dma)?;
    let result = describe(&mut mailbox).and_then(|()| {
        let deadline = Deadline::in_ns(PATIENCE_NS);
        mailbox.framebuffer(WIDTH, HEIGHT, || deadline.passed())
    });
    match result {
        Ok(framebuffer) => show(&framebuffer, memory),
        Err(error) => {
            // It may still write to the message: that page is nobody else's ever again.
            core::mem::forget(mailbox);
            Err(Bcm2835Error::Mailbox(error))
        }
    }
}

fn describe(mailbox: &mut Mailbox) -> Result<(), MailboxError> {
    let mut ask = |tag| {
        let deadline = Deadline::in_ns(PATIENCE_NS);
        mailbox.ask(tag, || deadline.passed())
    };
    let ([built, _], [revision, _]) = (ask(PropertyTag::FirmwareRevision)?, ask(PropertyTag::BoardRevision)?);
    let ([low, high], [start, len]) = (ask(PropertyTag::BoardSerial)?, ask(PropertyTag::ArmMemory)?);
    let (serial, len) = (u64::from(high) << 32 | u64::from(low), Size(len.into()));
    log::info!(
        "firmware {built:#x}: board {revision:#x}, serial {serial:#x}, {len} for CPUs from {start:#x}"
    );
    Ok(())
}

/// Draws tesserae, each in a colour of its own.
fn show(framebuffer: &Framebuffer, memory: &[AddrRange<PhysAddr>]) -> Result<(), Bcm2835Error> {
    let range = AddrRange::from_len(framebuffer.start, framebuffer.len);
    let range = range.filter(|range| memory.iter().all(|memory| !memory.overlaps(range)));
    let range = range.ok_or(Bcm2835Error::Misplaced(framebuffer.start))?;
    let at = vmalloc::map_registers(range).map_err(Bcm2835Error::Map)?;
    // SAFETY: mapped for good as Device memory, by the firmware's word a picture's and by the check above nobody's memory.
    let mut pixels = unsafe { MmioWindow::new(at.start(), at.len()) };
    for y in 0..framebuffer.height {
        for x in 0..framebuffer.width {
            pixels.write32(u64::from(y) * framebuffer.pitch + u64::from(x) * 4, tessera(x / TILE, y / TILE));
        }
    }
    log::info!("screen: {} x {} at {}", framebuffer.width, framebuffer.height, framebuffer.start);
    Ok(())
}

/// The colour of a tile: red grows to the right, green downwards, blue alternates.
fn tessera(column: u32, row: u32) -> u32 {
    let (red, green, blue) = (32 * column, 40 * row, if (column + row).is_multiple_of(2) { 255 } else { 64 });
    blue << 16 | green << 8 | red
}
