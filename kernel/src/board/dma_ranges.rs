//! What a device without IOMMU calls a physical address: the `dma-ranges` of every bus above it.

use super::address::{BusRange, bus_ranges};
use super::place::Cells;
use super::{Place, Reason};
use addr::{AddrRange, Iova, PhysAddr};
use alloc::vec::Vec;

/// A part of the device's address space, and the memory behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaWindow {
    /// The first address the device uses.
    pub bus: Iova,
    /// The memory there.
    pub memory: PhysAddr,
    /// The length in bytes.
    pub len: u64,
}

/// All that a device reaches, by its own addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DmaRanges(Vec<DmaWindow>);

impl DmaRanges {
    /// Every physical address by its own number (but for the last byte of the 64-bit space).
    pub fn identity() -> Self {
        Self(alloc::vec![DmaWindow { bus: Iova::new(0), memory: PhysAddr::new(0), len: u64::MAX }])
    }

    /// The windows, in the tree's order.
    pub fn windows(&self) -> &[DmaWindow] {
        &self.0
    }

    /// What the device calls `memory`, when one window holds all of it.
    pub fn to_bus(&self, memory: AddrRange<PhysAddr>) -> Option<Iova> {
        self.0.iter().find_map(|window| {
            let offset = memory.start().raw().checked_sub(window.memory.raw())?;
            let inside = offset.checked_add(memory.len())? <= window.len;
            inside.then_some(Iova::new(window.bus.raw().checked_add(offset)?))
        })
    }

    /// Of the device at `place`.
    pub fn of(place: &Place<'_>) -> Result<Self, Reason> {
        place.parent().map_or(Ok(Self::identity()), |bus| Self::below(&bus))
    }

    /// Of the functions behind the PCI host bridge at `host`, whose own `dma-ranges` have three-cell addresses.
    pub fn of_pci_host(host: &Place<'_>) -> Result<Self, Reason> {
        let bus = Self::of(host)?;
        let Some(value) = host.property("dma-ranges").filter(|value| !value.is_empty()) else {
            return Ok(bus);
        };
        let parent = host.parent().map_or(2, |parent| parent.address_cells());
        let cells = host.cells("dma-ranges").ok_or(Reason::Malformed("dma-ranges"))?;
        let size = host.size_cells();
        if host.address_cells() != 3 || !value.len().is_multiple_of(4 * (3 + parent + size)) {
            return Err(Reason::Malformed("dma-ranges"));
        }
        let lines = pci_lines(cells, parent, size);
        Ok(bus.seen_through(lines))
    }

    /// Of a device on `bus`.
    fn below(bus: &Place<'_>) -> Result<Self, Reason> {
        let mut ranges = Self::identity();
        let mut buses: Vec<_> = bus.upward().filter(|bus| bus.parent().is_some()).collect();
        while let Some(bus) = buses.pop() {
            // Linux reads a missing property like an empty one: the addresses pass unchanged.
            let mut lines = bus_ranges(&bus, "dma-ranges")?.into_iter().flatten().peekable();
            if lines.peek().is_some() {
                ranges = ranges.seen_through(lines);
            }
        }
        Ok(ranges)
    }

    /// What these ranges look like to a device on a bus whose addresses `lines` move to this one.
    fn seen_through(&self, lines: impl Iterator<Item = BusRange>) -> Self {
        Self(
            lines
                .flat_map(|line| self.0.iter().filter_map(move |window| window.seen_through(line)))
                .collect(),
        )
    }
}

impl DmaWindow {
    /// The part of this window that `line` reaches.
    fn seen_through(&self, line: BusRange) -> Option<Self> {
        let ours = AddrRange::from_len(self.bus, self.len)?;
        let theirs = AddrRange::from_len(Iova::new(line.parent), line.len)?;
        let both = ours.intersection(&theirs)?;
        Some(Self {
            bus: Iova::new(line.child.checked_add(both.start().raw() - line.parent)?),
            memory: PhysAddr::new(self.memory.raw().checked_add(both.start().raw() - self.bus.raw())?),
            len: both.len(),
        })
    }
}

fn pci_lines(mut cells: Cells<'_>, parent: usize, size: usize) -> impl Iterator<Item = BusRange> {
    core::iter::from_fn(move || {
        cells.next()?;
        Some(BusRange { child: cells.take(2)?, parent: cells.take(parent)?, len: cells.take(size)? })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Tree, fixture};
    use super::*;
    use dtoolkit::model::DeviceTree;

    /// A device on a bus with one-cell addresses, on a bus with two-cell addresses, each with its `dma-ranges`.
    fn ranges(inner: Option<&[u32]>, outer: Option<&[u32]>) -> Result<DmaRanges, Reason> {
        let mut near = fixture::node("near").property(fixture::cells("#address-cells", &[1]));
        let mut far = fixture::node("far").property(fixture::cells("#address-cells", &[2]));
        if let Some(cells) = inner {
            near = near.property(fixture::cells("dma-ranges", cells));
        }
        if let Some(cells) = outer {
            far = far.property(fixture::cells("dma-ranges", cells));
        }
        let mut model = DeviceTree::new();
        let near = near.child(fixture::node("device").build()).build();
        model.root.add_child(far.child(near).build());
        let blob = model.to_dtb();
        DmaRanges::of(&Tree::new(&blob).unwrap().find("/far/near/device").unwrap())
    }

    fn window(bus: u64, memory: u64, len: u64) -> DmaWindow {
        DmaWindow { bus: Iova::new(bus), memory: PhysAddr::new(memory), len }
    }

    fn memory(start: u64, len: u64) -> AddrRange<PhysAddr> {
        AddrRange::from_len(PhysAddr::new(start), len).unwrap()
    }

    #[test]
    fn without_ranges_addresses_pass_unchanged() {
        for empty in [None, Some(&[][..])] {
            let ranges = ranges(empty, empty).unwrap();
            assert_eq!(ranges, DmaRanges::identity());
            assert_eq!(ranges.to_bus(memory(0x1234_0000_0000, 0x1000)), Some(Iova::new(0x1234_0000_0000)));
        }
    }

    #[test]
    fn a_window_moves_and_limits() {
        // As on a Raspberry Pi 3: memory 0 to 0x3f00_0000 is at 0xc000_0000.
        let ranges = ranges(Some(&[0xc000_0000, 0, 0, 0x3f00_0000]), None).unwrap();
        assert_eq!(ranges.windows(), [window(0xc000_0000, 0, 0x3f00_0000)]);
        assert_eq!(ranges.to_bus(memory(0x1000, 0x2000)), Some(Iova::new(0xc000_1000)));
        assert_eq!(ranges.to_bus(memory(0x3eff_f000, 0x1000)), Some(Iova::new(0xfeff_f000)));
        assert_eq!(ranges.to_bus(memory(0x3eff_f000, 0x1001)), None);
    }

    #[test]
    fn buses_on_buses_move_twice() {
        let inner = &[0, 0, 0x8000_0000, 0x4000_0000][..];
        let outer = &[0, 0x9000_0000, 1, 0, 0x1000_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0x1000_0000][..];
        let found = ranges(Some(inner), Some(outer)).unwrap();
        assert_eq!(found.windows(), [window(0x1000_0000, 0x1_0000_0000, 0x1000_0000)]);
        assert_eq!(ranges(Some(inner), None).unwrap().windows(), [window(0, 0x8000_0000, 0x4000_0000)]);
    }

    #[test]
    fn lines_that_are_no_lines_are_an_error() {
        assert_eq!(ranges(Some(&[1, 2, 3]), None), Err(Reason::Malformed("dma-ranges")));
        assert_eq!(ranges(None, Some(&[1])), Err(Reason::Malformed("dma-ranges")));
    }

    #[test]
    fn a_host_bridge_has_ranges_of_its_own() {
        let mut model = fixture::virt();
        let host = |model: &DeviceTree| {
            let blob = model.to_dtb();
            DmaRanges::of_pci_host(&Tree::new(&blob).unwrap().find("/pcie").unwrap())
        };
        assert_eq!(host(&model), Ok(DmaRanges::identity()));
        let lines = fixture::cells("dma-ranges", &[0x0200_0000, 0, 0, 0x1, 0, 0, 0xc000_0000]);
        fixture::find(&mut model, "/pcie").add_property(lines);
        assert_eq!(host(&model).unwrap().windows(), [window(0, 0x1_0000_0000, 0xc000_0000)]);
        fixture::find(&mut model, "/pcie").add_property(fixture::cells("dma-ranges", &[0; 6]));
        assert_eq!(host(&model), Err(Reason::Malformed("dma-ranges")));
    }
}
