//! A host bridge's device tree node as plain values, supplied by the kernel's board code.

use super::Bdf;
use crate::direct::BusWindow;
use crate::gic::GicInterrupt;
use addr::{AddrRange, Iova, PhysAddr};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// Device tree phandle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Phandle(pub u32);

/// PCI address space of a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PciSpace {
    /// I/O space.
    Io,
    /// Memory space below 4 GiB.
    Memory32,
    /// Memory space with 64-bit addresses.
    Memory64,
}

/// A window through which the CPU accesses the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostWindow {
    /// Its address space.
    pub space: PciSpace,
    /// Whether reads may be merged and repeated.
    pub prefetchable: bool,
    /// First bus address.
    pub bus: u64,
    /// First physical address.
    pub cpu: PhysAddr,
    /// Length in bytes.
    pub len: u64,
}

/// An entry of an `interrupt-map`, with its unit address and pin masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptRoute {
    /// The masked requester ID.
    pub requester: u16,
    /// The pin: 1 for INTA to 4 for INTD.
    pub pin: u8,
    /// The interrupt.
    pub interrupt: GicInterrupt,
}

/// The `interrupt-map`: from INTx pins to interrupts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterruptMap {
    /// Mask of the requester ID.
    pub requester_mask: u16,
    /// Mask of the pin.
    pub pin_mask: u8,
    /// The entries.
    pub routes: Vec<InterruptRoute>,
}

impl InterruptMap {
    /// The interrupt of `pin` (1 to 4) of `function`, which must be on the root bus; for functions behind
    /// bridges use the swizzled pin ([`Function::intx`](super::Function::intx)).
    pub fn lookup(&self, function: Bdf, pin: u8) -> Option<GicInterrupt> {
        let wanted = (function.requester() & self.requester_mask, pin & self.pin_mask);
        self.routes.iter().find(|route| (route.requester, route.pin) == wanted).map(|route| route.interrupt)
    }
}

/// An entry of an `iommu-map` or `msi-map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequesterRange {
    /// First requester ID.
    pub first: u16,
    /// Number of requester IDs.
    pub len: u32,
    /// Their IOMMU or interrupt controller.
    pub controller: Phandle,
    /// Stream ID or device ID of the first one.
    pub base: u32,
}

/// An `iommu-map` or `msi-map`: from requester IDs to stream IDs or device IDs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequesterMap {
    /// Mask of the requester ID.
    pub mask: u16,
    /// The entries; the first match counts.
    pub ranges: Vec<RequesterRange>,
}

impl Default for RequesterMap {
    /// The empty map.
    fn default() -> Self {
        Self { mask: u16::MAX, ranges: Vec::new() }
    }
}

impl RequesterMap {
    /// The controller of `requester` and its ID there; `None` without a matching entry, which in an
    /// `iommu-map` means that no IOMMU translates it.
    pub fn lookup(&self, requester: u16) -> Option<(Phandle, u32)> {
        let id = requester & self.mask;
        self.ranges.iter().find_map(|range| {
            let offset = u32::from(id.checked_sub(range.first)?);
            (offset < range.len).then_some((range.controller, range.base.checked_add(offset)?))
        })
    }
}

/// A host bridge in the device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostDescription {
    /// Configuration space, 1 MiB per bus, from the first of `buses` on.
    pub ecam: AddrRange<PhysAddr>,
    /// Its bus numbers.
    pub buses: RangeInclusive<u8>,
    /// PCI domain number.
    pub domain: u32,
    /// Windows for BARs.
    pub windows: Vec<HostWindow>,
    /// Map of INTx.
    pub interrupts: InterruptMap,
    /// Map from requester IDs to stream IDs.
    pub iommu: RequesterMap,
    /// Map from requester IDs to device IDs of MSIs.
    pub msi: RequesterMap,
    /// The windows of `dma-ranges`.
    pub dma: Vec<BusWindow>,
    /// Device addresses that firmware uses or excludes.
    pub reserved_iovas: Vec<AddrRange<Iova>>,
    /// Whether DMA snoops the CPUs' caches.
    pub coherent: bool,
}

impl HostDescription {
    /// The device addresses that functions behind an IOMMU must not use:
    ///
    /// - the memory windows: a switch without ACS redirection routes such an address to a peer's BAR, so that
    ///   it reaches neither the host bridge nor the IOMMU;
    /// - all addresses outside `dma-ranges`, which the host bridge does not forward;
    /// - those of [`reserved_iovas`](Self::reserved_iovas).
    pub fn unusable_iovas(&self) -> Vec<AddrRange<Iova>> {
        let memory = self.windows.iter().filter(|window| window.space != PciSpace::Io);
        let windows = memory.filter_map(|window| AddrRange::from_len(Iova::new(window.bus), window.len));
        windows.chain(self.outside_dma_ranges()).chain(self.reserved_iovas.iter().copied()).collect()
    }

    fn outside_dma_ranges(&self) -> Vec<AddrRange<Iova>> {
        let mut outside = Vec::from([AddrRange::new(Iova::new(0), Iova::new(u64::MAX))]);
        for inside in self.dma.iter().filter_map(BusWindow::bus_range) {
            outside = outside.iter().flat_map(|range| <[_; 2]>::from(range.without(&inside))).collect();
        }
        outside.retain(|range| !range.is_empty());
        outside
    }

    /// Whether `dma-ranges` changes addresses: the IOMMU then translates other addresses than the functions
    /// use.
    pub fn shifts_addresses(&self) -> bool {
        self.dma.iter().any(|window| window.bus.raw() != window.memory.start().raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gic::{IntId, Trigger};

    fn interrupt(spi: u32) -> GicInterrupt {
        GicInterrupt { id: IntId::spi(spi), trigger: Trigger::Level }
    }

    fn iovas(start: u64, end: u64) -> AddrRange<Iova> {
        AddrRange::new(Iova::new(start), Iova::new(end))
    }

    /// The windows of QEMU's `virt`.
    fn host() -> HostDescription {
        let window =
            |space, bus, len| HostWindow { space, prefetchable: false, bus, cpu: PhysAddr::new(bus), len };
        HostDescription {
            ecam: AddrRange::new(PhysAddr::new(0x40_1000_0000), PhysAddr::new(0x40_2000_0000)),
            buses: 0..=255,
            domain: 0,
            windows: alloc::vec![
                window(PciSpace::Io, 0, 0x1_0000),
                window(PciSpace::Memory32, 0x1000_0000, 0x2eff_0000),
                window(PciSpace::Memory64, 0x80_0000_0000, 0x80_0000_0000),
            ],
            interrupts: InterruptMap::default(),
            iommu: RequesterMap::default(),
            msi: RequesterMap::default(),
            dma: alloc::vec![BusWindow::identity()],
            reserved_iovas: alloc::vec![],
            coherent: true,
        }
    }

    fn inbound(memory: u64, len: u64, bus: u64) -> BusWindow {
        let memory = AddrRange::from_len(PhysAddr::new(memory), len).unwrap();
        BusWindow { memory, bus: Iova::new(bus) }
    }

    #[test]
    fn memory_windows_are_unusable_as_device_addresses() {
        let windows = [iovas(0x1000_0000, 0x3eff_0000), iovas(0x80_0000_0000, 0x100_0000_0000)];
        assert_eq!(host().unusable_iovas(), windows, "I/O space has addresses of its own");
    }

    #[test]
    fn addresses_outside_dma_ranges_and_reserved_ones_are_unusable() {
        let dma = alloc::vec![inbound(0x8000, 0x1000, 0x8000), inbound(0x1000, 0x1000, 0x1000)];
        let reserved_iovas = alloc::vec![iovas(0x1800, 0x1900)];
        let host = HostDescription { windows: alloc::vec![], dma, reserved_iovas, ..host() };
        let outside = [iovas(0, 0x1000), iovas(0x2000, 0x8000), iovas(0x9000, u64::MAX)];
        assert_eq!(host.unusable_iovas(), [&outside[..], &[iovas(0x1800, 0x1900)]].concat());
        assert!(!host.shifts_addresses());
        let host = HostDescription { dma: alloc::vec![inbound(0x8000_0000, 0x1000, 0)], ..host };
        assert_eq!(host.unusable_iovas()[0], iovas(0x1000, u64::MAX));
        assert!(host.shifts_addresses());
    }

    #[test]
    fn interrupt_map_compares_masked_bits() {
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
    fn requester_map_adds_the_offset_to_the_base() {
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
    fn requester_map_overflow_is_unmapped() {
        let ranges = alloc::vec![RequesterRange { first: 0, len: 2, controller: Phandle(1), base: u32::MAX }];
        assert_eq!(RequesterMap { mask: u16::MAX, ranges }.lookup(1), None);
    }
}
