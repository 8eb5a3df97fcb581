//! What a host bridge's node in the device tree says, as plain values. The kernel's board code fills it in.

use super::Bdf;
use crate::direct::BusWindow;
use crate::gic::Interrupt;
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// A device tree's name for a node that others point at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Phandle(pub u32);

/// Which of PCI's address spaces a window opens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PciSpace {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB on the bus.
    Memory32,
    /// Memory anywhere on the bus.
    Memory64,
}

/// A part of the bus's address space that the CPU reaches at other addresses of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostWindow {
    /// Of which space.
    pub space: PciSpace,
    /// Whether reads there may be merged and repeated.
    pub prefetchable: bool,
    /// The first address on the bus.
    pub bus: u64,
    /// Where the CPU sees it.
    pub cpu: PhysAddr,
    /// The length in bytes.
    pub len: u64,
}

/// One line of an `interrupt-map`, its unit address and pin already masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptRoute {
    /// The function, as far as the mask looks at it.
    pub requester: u16,
    /// The pin: 1 for INTA to 4 for INTD.
    pub pin: u8,
    /// Where it arrives.
    pub interrupt: Interrupt,
}

/// The `interrupt-map`: which interrupt a function's INTx pin raises.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterruptMap {
    /// The bits of the requester id that matter.
    pub requester_mask: u16,
    /// The bits of the pin that matter.
    pub pin_mask: u8,
    /// The lines.
    pub routes: Vec<InterruptRoute>,
}

impl InterruptMap {
    /// The interrupt that `pin` (1 to 4) of `function` raises, for a function directly on the root bus; behind
    /// bridges swizzle first ([`super::Function::intx`]).
    pub fn lookup(&self, function: Bdf, pin: u8) -> Option<Interrupt> {
        let wanted = (function.requester() & self.requester_mask, pin & self.pin_mask);
        self.routes.iter().find(|route| (route.requester, route.pin) == wanted).map(|route| route.interrupt)
    }
}

/// One line of an `iommu-map` or `msi-map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequesterRange {
    /// The first requester id.
    pub first: u16,
    /// How many.
    pub len: u32,
    /// The IOMMU or interrupt controller they belong to.
    pub controller: Phandle,
    /// What the first one is called there.
    pub base: u32,
}

/// An `iommu-map` or `msi-map`: what a requester id is called at its IOMMU or interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequesterMap {
    /// The bits of the requester id that matter.
    pub mask: u16,
    /// The lines; the first that matches counts.
    pub ranges: Vec<RequesterRange>,
}

impl Default for RequesterMap {
    /// The map that has no line.
    fn default() -> Self {
        Self { mask: u16::MAX, ranges: Vec::new() }
    }
}

impl RequesterMap {
    /// The controller of `requester` and its number there; `None` when no line covers it, which for an `iommu-map`
    /// means that nothing translates it.
    pub fn lookup(&self, requester: u16) -> Option<(Phandle, u32)> {
        let id = requester & self.mask;
        self.ranges.iter().find_map(|range| {
            let offset = u32::from(id.checked_sub(range.first)?);
            (offset < range.len).then_some((range.controller, range.base.checked_add(offset)?))
        })
    }
}

/// A host bridge as the device tree describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostDescription {
    /// The configuration space, 1 MiB a bus, starting with the first of `buses`.
    pub ecam: AddrRange<PhysAddr>,
    /// The bus numbers it may use.
    pub buses: RangeInclusive<u8>,
    /// The PCI domain number.
    pub domain: u32,
    /// Where BARs can go.
    pub windows: Vec<HostWindow>,
    /// INTx.
    pub interrupts: InterruptMap,
    /// Requester id to stream id.
    pub iommu: RequesterMap,
    /// Requester id to the id that interrupt messages carry.
    pub msi: RequesterMap,
    /// The memory that its devices reach without an IOMMU; none: all of it, by physical addresses.
    pub dma: Vec<BusWindow>,
    /// Whether its devices' accesses snoop the CPUs' caches.
    pub coherent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gic::{IntId, Trigger};

    fn interrupt(spi: u32) -> Interrupt {
        Interrupt { id: IntId::spi(spi), trigger: Trigger::Level }
    }

    #[test]
    fn an_interrupt_map_looks_at_the_masked_bits_only() {
        let map = InterruptMap {
            requester_mask: 0x18,
            pin_mask: 7,
            routes: alloc::vec![
                InterruptRoute { requester: 0, pin: 1, interrupt: interrupt(3) },
                InterruptRoute { requester: 8, pin: 1, interrupt: interrupt(4) },
            ],
        };
        assert_eq!(map.lookup(Bdf::new(0, 4, 0), 1), Some(interrupt(3)));
        assert_eq!(map.lookup(Bdf::new(0, 5, 3), 1), Some(interrupt(4)));
        assert_eq!(map.lookup(Bdf::new(0, 5, 0), 2), None);
    }

    #[test]
    fn a_requester_map_adds_the_offset_to_the_base() {
        let range = |first, len, base| RequesterRange { first, len, controller: Phandle(5), base };
        let map = RequesterMap {
            mask: u16::MAX,
            ranges: alloc::vec![range(0, 8, 0), range(0x10, 0xfff0, 0x1_0010), range(8, 1, u32::MAX)],
        };
        let cases = [(0, Some(0)), (7, Some(7)), (8, Some(u32::MAX)), (9, None), (0xffff, Some(0x1_ffff))];
        for (requester, number) in cases {
            assert_eq!(map.lookup(requester), number.map(|n| (Phandle(5), n)), "{requester:#x}");
        }
        let whole = RequesterMap { mask: 0xff00, ranges: alloc::vec![range(0, 0x1_0000, 0)] };
        assert_eq!(whole.lookup(0x1234), Some((Phandle(5), 0x1200)));
    }

    #[test]
    fn a_number_past_32_bits_is_not_mapped() {
        let ranges = alloc::vec![RequesterRange { first: 0, len: 2, controller: Phandle(1), base: u32::MAX }];
        assert_eq!(RequesterMap { mask: u16::MAX, ranges }.lookup(1), None);
    }
}
