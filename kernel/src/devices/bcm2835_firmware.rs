//! The driver of the mailbox to a Raspberry Pi's firmware (binding `brcm,bcm2835-mbox`). The firmware reads
//! its messages from memory. The driver logs the board's properties and sets up the framebuffer; the mailbox
//! is not used afterwards.

use super::bcm2835_framebuffer as framebuffer;
use super::driver::{ProbeError, Probed};
use super::platform::{PlatformDriver, PlatformProbe};
use crate::board::NodeError;
use crate::dma::Space;
use addr::Size;
use arch::timer::Deadline;
use drivers::bcm2835::mailbox::{Mailbox, MailboxError, PropertyTag, Registers};
use drivers::mmio::Mmio;

pub static DRIVER: PlatformDriver =
    PlatformDriver { name: "firmware", compatible: &["brcm,bcm2835-mbox"], probe };

/// The timeout of a request.
const TIMEOUT_NS: u64 = 100_000_000;

fn probe(probed: &PlatformProbe<'_>) -> Probed {
    let registers = probed.device.registers;
    if registers.len() < size_of::<Registers>() as u64 {
        return Err(ProbeError::Node(NodeError::Malformed("reg")));
    }
    // SAFETY: a mailbox according to the device tree, which no earlier request has filled.
    let at = unsafe { probed.map(registers) }?;
    // SAFETY: mapped permanently as Device memory; a mailbox's registers according to the device tree, long
    // enough (above); no other driver uses them.
    let registers = unsafe { Mmio::new(at.start()) };
    let space = Space::new(probed.dma_device("bcm2835-mbox"));
    let mut mailbox = Mailbox::new(registers, &space).map_err(ProbeError::Dma)?;
    let result = log_properties(&mut mailbox).and_then(|()| {
        let deadline = Deadline::in_ns(TIMEOUT_NS);
        mailbox.framebuffer(framebuffer::WIDTH, framebuffer::HEIGHT, || deadline.passed())
    });
    match result {
        Ok(framebuffer) => framebuffer::draw(&framebuffer, probed).map(|()| None),
        Err(error) => {
            // The firmware may still write to the message: its page is never reused.
            core::mem::forget(mailbox);
            Err(ProbeError::device(error))
        }
    }
}

fn log_properties(mailbox: &mut Mailbox) -> Result<(), MailboxError> {
    let mut get = |tag| {
        let deadline = Deadline::in_ns(TIMEOUT_NS);
        mailbox.get_property(tag, || deadline.passed())
    };
    let ([built, _], [revision, _]) = (get(PropertyTag::FirmwareRevision)?, get(PropertyTag::BoardRevision)?);
    let ([low, high], [start, len]) = (get(PropertyTag::BoardSerial)?, get(PropertyTag::ArmMemory)?);
    let (serial, len) = (u64::from(high) << 32 | u64::from(low), Size(len.into()));
    log::info!(
        "firmware {built:#x}: board {revision:#x}, serial {serial:#x}, {len} for CPUs from {start:#x}"
    );
    Ok(())
}
