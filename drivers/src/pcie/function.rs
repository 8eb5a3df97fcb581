//! A function that was found, and what its place in the tree means.

use super::{Bar, BarKind, Bdf, Capabilities, Capability, ConfigSpace};
use core::fmt;

pub(super) const COMMAND: u16 = 0x04;
/// Command register: decode memory.
pub(super) const MEMORY: u16 = 1 << 1;
/// Command register: master the bus.
pub(super) const MASTER: u16 = 1 << 2;
/// Command register: keep INTx quiet.
pub(super) const INTX_OFF: u16 = 1 << 10;
const REVISION_AND_CLASS: u16 = 0x08;
pub(super) const HEADER_TYPE: u16 = 0x0e;
const INTERRUPT_PIN: u16 = 0x3d;

/// What a function is for (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClassCode(u32);

impl ClassCode {
    /// The class with these three bytes.
    pub const fn new(base: u8, sub: u8, interface: u8) -> Self {
        Self((base as u32) << 16 | (sub as u32) << 8 | interface as u32)
    }

    /// Whether it is a bridge of any kind, a host bridge too.
    pub const fn is_bridge(self) -> bool {
        self.0 >> 16 == 6
    }
}

impl fmt::Debug for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// How a function is connected (PCI Express capabilities register, device/port type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkType {
    /// By conventional PCI: it has no PCI Express capability.
    Conventional,
    /// By PCI Express.
    Express,
    /// A bridge from PCI Express above to conventional PCI below.
    ExpressToPci,
    /// A bridge from conventional PCI above to PCI Express below.
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
    /// The bus directly behind it.
    pub secondary: u8,
    /// The last bus anywhere behind it.
    pub subordinate: u8,
    /// Whether it and all bridges above it forward 64-bit prefetchable addresses.
    pub(super) wide: bool,
}

/// A function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub bdf: Bdf,
    /// Its maker.
    pub vendor: u16,
    /// Which of its maker's devices.
    pub device: u16,
    /// The revision of it.
    pub revision: u8,
    /// What it is for.
    pub class: ClassCode,
    /// How it is connected.
    pub link: LinkType,
    /// Its BARs by their number; the second half of a 64-bit one is `None`.
    pub bars: [Option<Bar>; 6],
    /// The buses behind it, if it is a bridge.
    pub bridge: Option<Bridge>,
    /// The interrupt pin it uses: the function on the root bus and the pin there (1 to 4) at which its INTx arrives.
    pub intx: Option<(Bdf, u8)>,
    /// The requester id that the IOMMU sees, with what bridges on the way put in its place. Functions with the same
    /// one cannot be told apart and form a group.
    pub requester: u16,
    /// The bridge above, as an index.
    pub(super) parent: Option<usize>,
}

impl Function {
    /// Reads what does not depend on the place.
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

    /// What the function becomes when seen from above `bridge`, one of the bridges over it, the nearest first: its
    /// requester id (PCI Express to PCI Bridge 1.0, 2.3) and its pin (PCI-to-PCI Bridge 1.2, 9.1).
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

    /// Whether everything that it decodes as memory has an address.
    pub(super) fn is_assigned(&self) -> bool {
        let mut memory = self.bars.iter().flatten().filter(|bar| bar.kind != BarKind::Io);
        memory.all(|bar| bar.registers.is_some())
    }
}

impl fmt::Display for Function {
    /// As `lspci -n` has it: address, class, vendor and device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:04x}:{:04x}", self.bdf, self.class, self.vendor, self.device)
    }
}
