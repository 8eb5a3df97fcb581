//! An enumerated function and its properties.

use super::address::Bdf;
use super::bar::{Bar, BarKind};
use super::capabilities::{Capabilities, Capability};
use super::config::ConfigSpace;
use core::fmt;

pub(super) const COMMAND: u16 = 0x04;
/// Command register: memory space enable.
pub(super) const MEMORY: u16 = 1 << 1;
/// Command register: bus master enable.
pub(super) const MASTER: u16 = 1 << 2;
/// Command register: INTx disable.
pub(super) const INTX_OFF: u16 = 1 << 10;
const REVISION_AND_CLASS: u16 = 0x08;
pub(super) const HEADER_TYPE: u16 = 0x0e;
const INTERRUPT_PIN: u16 = 0x3d;

/// Class code (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClassCode(u32);

impl ClassCode {
    /// The class with these three bytes.
    pub const fn new(base: u8, sub: u8, interface: u8) -> Self {
        Self((base as u32) << 16 | (sub as u32) << 8 | interface as u32)
    }

    /// The three bytes, the base class highest.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether it is a bridge of any type, including host bridges.
    pub const fn is_bridge(self) -> bool {
        self.0 >> 16 == 6
    }
}

impl fmt::Debug for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// Link type of a function (PCI Express capabilities register, device/port type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkType {
    /// Conventional PCI: no PCI Express capability.
    Conventional,
    /// PCI Express.
    Express,
    /// Bridge with PCI Express upstream and conventional PCI downstream.
    ExpressToPci,
    /// Bridge with conventional PCI upstream and PCI Express downstream.
    PciToExpress,
}

impl LinkType {
    fn read(config: &impl ConfigSpace, at: Bdf) -> Self {
        let express = Capabilities::of(config, at).find(|found| found.id == Capability::EXPRESS);
        match express.map(|found| config.read16(at, (found.offset + 2) & 0xfe) >> 4 & 0xf) {
            None => Self::Conventional,
            Some(7) => Self::ExpressToPci,
            Some(8) => Self::PciToExpress,
            Some(_) => Self::Express,
        }
    }
}

/// The buses behind a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Secondary bus.
    pub secondary: u8,
    /// Subordinate bus: the last one behind the bridge.
    pub subordinate: u8,
    /// Whether the bridge and all bridges upstream forward 64-bit prefetchable addresses.
    pub(super) is_64bit: bool,
}

/// A function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its address.
    pub bdf: Bdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code.
    pub class: ClassCode,
    /// Link type.
    pub link: LinkType,
    /// BARs by number; the upper half of a 64-bit BAR is `None`.
    pub bars: [Option<Bar>; 6],
    /// Buses behind it, if it is a bridge.
    pub bridge: Option<Bridge>,
    /// Its INTx at the root bus: the function and the pin (1 to 4) at which it arrives.
    pub intx: Option<(Bdf, u8)>,
    /// The requester ID that the IOMMU receives, after replacement by bridges upstream. Functions with the
    /// same ID are indistinguishable and form a group.
    pub requester: u16,
    /// Index of the bridge upstream.
    pub(super) parent: Option<usize>,
}

impl Function {
    /// Reads the properties that do not depend on bridges.
    pub(super) fn read(config: &impl ConfigSpace, bdf: Bdf) -> Self {
        let (ids, class) = (config.read32(bdf, 0), config.read32(bdf, REVISION_AND_CLASS));
        let pin = config.read8(bdf, INTERRUPT_PIN);
        Self {
            bdf,
            vendor: ids as u16,
            device: (ids >> 16) as u16,
            revision: class as u8,
            class: ClassCode(class >> 8),
            link: LinkType::read(config, bdf),
            bars: [None; 6],
            bridge: None,
            intx: (1..=4).contains(&pin).then_some((bdf, pin)),
            requester: bdf.requester(),
            parent: None,
        }
    }

    /// Applies the effect of `bridge` on the requester ID (PCI Express to PCI Bridge 1.0, 2.3) and the
    /// interrupt pin (PCI-to-PCI Bridge 1.2, 9.1). Called for the bridges upstream, the nearest first.
    pub(super) fn pass(&mut self, bridge: &Function) {
        match (bridge.link, bridge.bridge) {
            (LinkType::ExpressToPci, Some(Bridge { secondary, .. })) => {
                self.requester = Bdf::new(secondary, 0, 0).requester();
            }
            (LinkType::Conventional | LinkType::PciToExpress, _) => self.requester = bridge.bdf.requester(),
            _ => {}
        }
        if let Some((source, pin)) = &mut self.intx {
            *pin = (*pin - 1 + source.device()) % 4 + 1;
            *source = bridge.bdf;
        }
    }

    /// Whether all memory BARs have addresses.
    pub(super) fn is_assigned(&self) -> bool {
        let mut memory = self.bars.iter().flatten().filter(|bar| bar.kind != BarKind::Io);
        memory.all(|bar| bar.registers.is_some())
    }
}

impl fmt::Display for Function {
    /// In the format of `lspci -n`: address, class, vendor and device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:04x}:{:04x}", self.bdf, self.class, self.vendor, self.device)
    }
}
