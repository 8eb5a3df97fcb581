//! PCI host bridges with ECAM (binding `pci-host-ecam-generic`).

use super::interrupts::decode_gic;
use super::node::Cells;
use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use drivers::pcie::{
    HostDescription, HostWindow, InterruptMap, InterruptRoute, PciSpace, Phandle, RequesterMap,
    RequesterRange,
};

/// The size of the configuration space of one bus.
const BUS_BYTES: u64 = 1 << 20;

impl<'a> DeviceTree<'a> {
    /// The PCI host bridges.
    pub fn pci_hosts(
        &self,
    ) -> impl Iterator<Item = (TreeNode<'a>, Result<HostDescription, NodeError>)> + use<'a> {
        let tree = *self;
        self.compatible(&["pci-host-ecam-generic"]).map(move |node| (node, tree.pci_host(&node)))
    }

    fn pci_host(&self, node: &TreeNode<'a>) -> Result<HostDescription, NodeError> {
        let (ecam, buses) = config_space(node)?;
        Ok(HostDescription {
            ecam,
            buses,
            domain: node.cell("linux,pci-domain").unwrap_or(0),
            windows: windows(node)?,
            interrupts: self.interrupt_map(node)?,
            iommu: requester_map(node, ["iommu-map", "iommu-map-mask"])?,
            msi: message_map(node)?,
            dma: node.pci_dma_windows()?,
            reserved_iovas: self.reserved_iovas(node)?,
            coherent: node.is_coherent(),
        })
    }

    /// The `interrupt-map` (Devicetree specification, 2.4.3): child unit address and interrupt, parent,
    /// parent unit address and interrupt. Entries with a parent other than a GIC are skipped.
    fn interrupt_map(&self, node: &TreeNode<'a>) -> Result<InterruptMap, NodeError> {
        const NAME: &str = "interrupt-map";
        if node.property(NAME).is_none() {
            return Ok(InterruptMap::default());
        }
        let mut cells = node.cells(NAME).ok_or(NodeError::Malformed(NAME))?;
        let (requester_mask, pin_mask) = interrupt_mask(node)?;
        let mut routes = Vec::new();
        while !cells.is_empty() {
            let route = self.interrupt_route(&mut cells, requester_mask, pin_mask)?;
            routes.extend(route);
        }
        Ok(InterruptMap { requester_mask, pin_mask, routes })
    }

    fn interrupt_route(
        &self,
        cells: &mut Cells<'_>,
        requester_mask: u16,
        pin_mask: u8,
    ) -> Result<Option<InterruptRoute>, NodeError> {
        let short = NodeError::Malformed("interrupt-map");
        let unit = cells.split(3).and_then(|mut unit| unit.next()).ok_or(short)?;
        let pin = cells.next().ok_or(short)?;
        let parent = Phandle(cells.next().ok_or(short)?);
        let node = self.by_phandle(parent).ok_or(NodeError::DanglingPhandle(parent))?;
        // Unlike for `reg`, a missing #address-cells means 0 here.
        cells.split(node.cell("#address-cells").unwrap_or(0) as usize).ok_or(short)?;
        let mut interrupt = cells.split(node.interrupt_cells()).ok_or(short)?;
        if self.gic_node(parent).is_err() {
            return Ok(None);
        }
        let interrupt = decode_gic(&mut interrupt)?;
        let requester = (unit >> 8) as u16 & requester_mask;
        Ok(Some(InterruptRoute { requester, pin: pin as u8 & pin_mask, interrupt }))
    }
}

/// The configuration space and its bus numbers.
fn config_space(node: &TreeNode<'_>) -> Result<(AddrRange<PhysAddr>, RangeInclusive<u8>), NodeError> {
    let ecam = node.reg(0)?;
    let buses = match node.cells("bus-range") {
        None => 0..=255,
        Some(mut cells) => {
            let mut number = || cells.next().and_then(|bus| u8::try_from(bus).ok());
            let (first, last) = (number(), number());
            first
                .zip(last)
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| first..=last)
                .ok_or(NodeError::Malformed("bus-range"))?
        }
    };
    let count = buses.len() as u64;
    if ecam.len() < count * BUS_BYTES {
        return Err(NodeError::EcamTooSmall { len: ecam.len(), buses: count as u32 });
    }
    Ok((ecam, buses))
}

/// The windows in `ranges`: one cell of flags, two of bus address, the parent's number of cells of CPU
/// address, and the length.
fn windows(node: &TreeNode<'_>) -> Result<Vec<HostWindow>, NodeError> {
    const NAME: &str = "ranges";
    node.property(NAME).ok_or(NodeError::Missing(NAME))?;
    let mut cells = node.cells(NAME).ok_or(NodeError::Malformed(NAME))?;
    let bus = node.parent().ok_or(NodeError::Malformed(NAME))?;
    let mut windows = Vec::new();
    while !cells.is_empty() {
        windows.extend(window(&mut cells, &bus, node.size_cells())?);
    }
    Ok(windows)
}

fn window(
    cells: &mut Cells<'_>,
    parent: &TreeNode<'_>,
    size: usize,
) -> Result<Option<HostWindow>, NodeError> {
    let short = NodeError::Malformed("ranges");
    let flags = cells.next().ok_or(short)?;
    let bus = cells.take(2).ok_or(short)?;
    let cpu = cells.take(parent.address_cells()).ok_or(short)?;
    let len = cells.take(size).ok_or(short)?;
    let space = match flags >> 24 & 3 {
        1 => PciSpace::Io,
        2 => PciSpace::Memory32,
        3 => PciSpace::Memory64,
        // Configuration space, which `reg` describes.
        _ => return Ok(None),
    };
    let cpu = super::translation::translate(parent, cpu, len)?.start();
    bus.checked_add(len).ok_or(NodeError::AddressOverflow { start: bus, len })?;
    Ok(Some(HostWindow { space, prefetchable: flags & 1 << 30 != 0, bus, cpu, len }))
}

/// The requester ID mask and the pin mask of the interrupt map.
fn interrupt_mask(node: &TreeNode<'_>) -> Result<(u16, u8), NodeError> {
    const NAME: &str = "interrupt-map-mask";
    let Some(mut mask) = node.cells(NAME) else { return Ok((u16::MAX, u8::MAX)) };
    let unit = mask.split(3).and_then(|mut unit| unit.next());
    match (unit, mask.next()) {
        (Some(unit), Some(pin)) => Ok(((unit >> 8) as u16, pin as u8)),
        _ => Err(NodeError::Malformed(NAME)),
    }
}

/// The `msi-map`, or an `msi-parent`, to which the device IDs are the requester IDs.
fn message_map(node: &TreeNode<'_>) -> Result<RequesterMap, NodeError> {
    match node.cell("msi-parent") {
        Some(parent) if node.property("msi-map").is_none() => {
            let range = RequesterRange { first: 0, len: 0x1_0000, controller: Phandle(parent), base: 0 };
            Ok(RequesterMap { mask: u16::MAX, ranges: Vec::from([range]) })
        }
        _ => requester_map(node, ["msi-map", "msi-map-mask"]),
    }
}

/// An `iommu-map` or `msi-map`: requester ID, controller, ID at the controller, length.
fn requester_map(node: &TreeNode<'_>, [name, mask]: [&'static str; 2]) -> Result<RequesterMap, NodeError> {
    let mask = node.cell(mask).map_or(u16::MAX, |mask| mask as u16);
    if node.property(name).is_none() {
        return Ok(RequesterMap { mask, ranges: Vec::new() });
    }
    let mut cells =
        node.cells(name).filter(|cells| cells.len().is_multiple_of(4)).ok_or(NodeError::Malformed(name))?;
    let mut ranges = Vec::new();
    while let (Some(first), Some(controller), Some(base), Some(len)) =
        (cells.next(), cells.next(), cells.next(), cells.next())
    {
        let first = u16::try_from(first).map_err(|_| NodeError::Malformed(name))?;
        ranges.push(RequesterRange { first, len, controller: Phandle(controller), base });
    }
    Ok(RequesterMap { mask, ranges })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use drivers::gic::{GicInterrupt, IntId, Trigger};
    use drivers::pcie::Bdf;

    fn host(change: &[(&str, &[u32])]) -> Result<HostDescription, NodeError> {
        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/pcie");
        for (name, cells) in change {
            node.add_property(fixture::cells(name, cells));
        }
        let blob = model.to_dtb();
        DeviceTree::new(&blob).unwrap().pci_hosts().next().unwrap().1
    }

    #[test]
    fn host_bridge_of_the_virt_board_is_read() {
        let host = host(&[]).unwrap();
        assert_eq!((host.ecam.start().raw(), host.ecam.len()), (0x40_1000_0000, 256 << 20));
        assert_eq!((host.buses.clone(), host.domain, host.coherent), (0..=255, 0, true));
        let window = |space, bus, cpu, len| HostWindow {
            space,
            prefetchable: false,
            bus,
            cpu: PhysAddr::new(cpu),
            len,
        };
        let windows = [
            window(PciSpace::Io, 0, 0x3eff_0000, 0x1_0000),
            window(PciSpace::Memory32, 0x1000_0000, 0x1000_0000, 0x2eff_0000),
            window(PciSpace::Memory64, 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000),
        ];
        assert_eq!(host.windows, windows);
        assert_eq!(host.iommu.lookup(0x0108), Some((Phandle(fixture::SMMU), 0x0108)));
        assert_eq!(host.msi.lookup(0xffff), Some((Phandle(fixture::ITS), 0xffff)));
    }

    #[test]
    fn requester_maps_are_read_with_their_offsets_and_masks() {
        let host = host(&[
            ("iommu-map", &[0x100, fixture::SMMU, 0x4_0000, 0x80, 0x200, fixture::ITS, 7, 1]),
            ("iommu-map-mask", &[0xfff8]),
            ("msi-map", &[0x10, fixture::ITS, 0x300, 0x10]),
        ]);
        let host = host.unwrap();
        let cases = [(0xff, None), (0x103, Some(0x4_0000)), (0x17f, Some(0x4_0078)), (0x180, None)];
        for (requester, stream) in cases {
            let expected = stream.map(|stream| (Phandle(fixture::SMMU), stream));
            assert_eq!(host.iommu.lookup(requester), expected, "{requester:#x}");
        }
        assert_eq!(host.iommu.lookup(0x207), Some((Phandle(fixture::ITS), 7)));
        assert_eq!(
            [0xf, 0x1f, 0x20].map(|id| host.msi.lookup(id)),
            [None, Some((Phandle(fixture::ITS), 0x30f)), None]
        );
    }

    #[test]
    fn message_controller_without_a_map_gets_requester_ids() {
        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/pcie");
        node.remove_property("msi-map");
        node.add_property(fixture::cells("msi-parent", &[fixture::ITS]));
        let blob = model.to_dtb();
        let host = DeviceTree::new(&blob).unwrap().pci_hosts().next().unwrap().1.unwrap();
        assert_eq!(host.msi.lookup(0x108), Some((Phandle(fixture::ITS), 0x108)));
    }

    #[test]
    fn windows_are_translated_and_requesters_of_interrupts_masked() {
        let ranges = [0x4200_0000, 0, 0x2000_0000, 0x10, 0, 0, 0x100_0000];
        let host = host(&[("ranges", &ranges), ("interrupt-map-mask", &[0x1800, 0, 0, 7])]).unwrap();
        let window = HostWindow {
            space: PciSpace::Memory32,
            prefetchable: true,
            bus: 0x2000_0000,
            cpu: PhysAddr::new(0x10_0000_0000),
            len: 0x100_0000,
        };
        assert_eq!(host.windows, [window]);
        assert!(host.interrupts.routes.iter().all(|route| route.requester <= 0x18));
    }

    #[test]
    fn device_addresses_outside_dma_ranges_and_reserved_ones_are_unusable() {
        const HOST: u32 = 0x71;
        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/pcie");
        node.add_property(fixture::cells("phandle", &[HOST]));
        node.add_property(fixture::cells("dma-ranges", &[0x0200_0000, 0, 0, 0, 0, 0, 0x100_0000]));
        let region = fixture::cells("iommu-addresses", &[HOST, 0, 0x20_0000, 0, 0x1000]);
        let region = fixture::node("doorbell").property(region).build();
        model.root.add_child(fixture::node("reserved-memory").child(region).build());
        let blob = model.to_dtb();
        let unusable =
            DeviceTree::new(&blob).unwrap().pci_hosts().next().unwrap().1.unwrap().unusable_iovas();
        for (address, usable) in [
            (0x1000, true),
            (0xff_f000, true),
            (0x100_0000, false),
            (0x20_0000, false),
            (0x20_1000, true),
            (0x1000_0000, false),
        ] {
            let is_unusable = unusable.iter().any(|range| range.contains(addr::Iova::new(address)));
            assert_eq!(is_unusable, !usable, "{address:#x}");
        }
    }

    #[test]
    fn interrupt_map_routes_pins_by_slot() {
        let interrupts = host(&[]).unwrap().interrupts;
        let spi = |number| Some(GicInterrupt { id: IntId::spi(number), trigger: Trigger::Level });
        for (device, pin, number) in [(0, 1, 3), (0, 4, 6), (1, 1, 4), (2, 3, 3), (3, 4, 5), (5, 1, 4)] {
            assert_eq!(
                interrupts.lookup(Bdf::new(0, device, 0), pin),
                spi(number),
                "device {device} pin {pin}"
            );
        }
        assert_eq!(interrupts.lookup(Bdf::new(0, 0, 0), 5), None);
        assert_eq!(
            host(&[("interrupt-map", &[0, 0, 0, 1, fixture::CLOCK, 7])]).unwrap().interrupts.routes,
            []
        );
    }

    #[test]
    fn invalid_host_bridges_are_rejected() {
        let cases: [(&str, &[u32], NodeError); 11] = [
            ("bus-range", &[1, 0], NodeError::Malformed("bus-range")),
            ("bus-range", &[0, 256], NodeError::Malformed("bus-range")),
            ("bus-range", &[0], NodeError::Malformed("bus-range")),
            (
                "reg",
                &[0x40, 0x1000_0000, 0, 0x100_0000],
                NodeError::EcamTooSmall { len: 16 << 20, buses: 256 },
            ),
            ("ranges", &[0x0200_0000, 0, 1], NodeError::Malformed("ranges")),
            (
                "ranges",
                &[0x0300_0000, u32::MAX, 0, 0, 0, 2, 0],
                NodeError::AddressOverflow { start: 0xffff_ffff_0000_0000, len: 2 << 32 },
            ),
            ("interrupt-map", &[0, 0, 0, 1, 0x77, 0], NodeError::DanglingPhandle(Phandle(0x77))),
            ("interrupt-map", &[0, 0, 0, 1, fixture::GIC, 0, 0, 0], NodeError::Malformed("interrupt-map")),
            ("interrupt-map-mask", &[0], NodeError::Malformed("interrupt-map-mask")),
            ("iommu-map", &[0, fixture::SMMU, 0], NodeError::Malformed("iommu-map")),
            ("iommu-map", &[0x1_0000, fixture::SMMU, 0, 1], NodeError::Malformed("iommu-map")),
        ];
        for (name, cells, error) in cases {
            assert_eq!(host(&[(name, cells)]), Err(error), "{name} {cells:?}");
        }
    }
}
