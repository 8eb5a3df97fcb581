//! What a device without IOMMU calls a physical address: the `dma-ranges` of every bus above it.

use super::address::{BusRange, bus_ranges};
use super::place::Cells;
use super::{Place, Reason};
use addr::{AddrRange, Iova, PhysAddr};
use alloc::vec::Vec;
use drivers::direct::BusWindow;

impl Place<'_> {
    /// The memory that this device reaches without an IOMMU, and at which addresses. No windows: all of it, by
    /// physical addresses.
    pub fn dma_windows(&self) -> Result<Vec<BusWindow>, Reason> {
        Ok(Reach::of(self)?.windows())
    }

    /// The same for the functions behind this PCI host bridge, whose own `dma-ranges` have three-cell addresses.
    pub fn pci_dma_windows(&self) -> Result<Vec<BusWindow>, Reason> {
        Ok(Reach::of(self)?.of_pci_host(self)?.windows())
    }
}

/// What is reached from a bus: everything by its own number, or windows.
#[derive(Clone)]
enum Reach {
    All,
    Windows(Vec<BusWindow>),
}

impl Reach {
    /// From where `place` is.
    fn of(place: &Place<'_>) -> Result<Self, Reason> {
        let mut reach = Self::All;
        let mut buses: Vec<_> = place.upward().skip(1).filter(|bus| bus.parent().is_some()).collect();
        while let Some(bus) = buses.pop() {
            // Linux reads a missing property like an empty one: the addresses pass unchanged.
            let mut lines = bus_ranges(&bus, "dma-ranges")?.into_iter().flatten().peekable();
            if lines.peek().is_some() {
                reach = reach.through(lines)?;
            }
        }
        Ok(reach)
    }

    /// From behind the PCI host bridge `host`, which itself reaches `self`.
    fn of_pci_host(self, host: &Place<'_>) -> Result<Self, Reason> {
        const MALFORMED: Reason = Reason::Malformed("dma-ranges");
        let Some(value) = host.property("dma-ranges").filter(|value| !value.is_empty()) else {
            return Ok(self);
        };
        let parent = host.parent().map_or(2, |parent| parent.address_cells());
        let cells = host.cells("dma-ranges").ok_or(MALFORMED)?;
        let size = host.size_cells();
        let line = parent.saturating_add(size).saturating_add(3);
        if host.address_cells() != 3 || !(value.len() / 4).is_multiple_of(line) {
            return Err(MALFORMED);
        }
        self.through(pci_lines(cells, parent, size))
    }

    /// What it is from a bus whose addresses `lines` move to this one's.
    fn through(&self, lines: impl Iterator<Item = BusRange>) -> Result<Self, Reason> {
        let windows: Vec<_> = match self {
            Self::All => lines.filter_map(|line| part(&everything(), line)).collect(),
            Self::Windows(windows) => {
                lines.flat_map(|line| windows.iter().filter_map(move |window| part(window, line))).collect()
            }
        };
        if windows.is_empty() { Err(Reason::Malformed("dma-ranges")) } else { Ok(Self::Windows(windows)) }
    }

    fn windows(self) -> Vec<BusWindow> {
        match self {
            Self::All => Vec::new(),
            Self::Windows(windows) => windows,
        }
    }
}

/// The whole address space but its last byte, by its own numbers.
fn everything() -> BusWindow {
    let memory = AddrRange::new(PhysAddr::new(0), PhysAddr::new(u64::MAX));
    BusWindow { memory, bus: Iova::new(0) }
}

/// The part of `window` that `line` reaches, by the addresses of the bus behind it.
fn part(window: &BusWindow, line: BusRange) -> Option<BusWindow> {
    let ours = AddrRange::from_len(window.bus, window.memory.len())?;
    let theirs = AddrRange::from_len(Iova::new(line.parent), line.len)?;
    let both = ours.intersection(&theirs)?;
    let start = window.memory.start().raw().checked_add(both.start().raw() - window.bus.raw())?;
    Some(BusWindow {
        memory: AddrRange::from_len(PhysAddr::new(start), both.len())?,
        bus: Iova::new(line.child.checked_add(both.start().raw() - line.parent)?),
    })
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
    fn ranges(inner: Option<&[u32]>, outer: Option<&[u32]>) -> Result<Vec<BusWindow>, Reason> {
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
        Tree::new(&blob).unwrap().find("/far/near/device").unwrap().dma_windows()
    }

    fn window(bus: u64, memory: u64, len: u64) -> BusWindow {
        let memory = AddrRange::from_len(PhysAddr::new(memory), len).unwrap();
        BusWindow { bus: Iova::new(bus), memory }
    }

    #[test]
    fn without_ranges_addresses_pass_unchanged() {
        for empty in [None, Some(&[][..])] {
            assert_eq!(ranges(empty, empty), Ok(vec![]));
        }
    }

    #[test]
    fn a_window_moves_and_limits() {
        // As on a Raspberry Pi 3: memory 0 to 0x3f00_0000 is at 0xc000_0000.
        let ranges = ranges(Some(&[0xc000_0000, 0, 0, 0x3f00_0000]), None).unwrap();
        assert_eq!(ranges, [window(0xc000_0000, 0, 0x3f00_0000)]);
    }

    #[test]
    fn buses_on_buses_move_twice() {
        let inner = &[0, 0, 0x8000_0000, 0x4000_0000][..];
        let outer = &[0, 0x9000_0000, 1, 0, 0x1000_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0x1000_0000][..];
        let found = ranges(Some(inner), Some(outer)).unwrap();
        assert_eq!(found, [window(0x1000_0000, 0x1_0000_0000, 0x1000_0000)]);
        assert_eq!(ranges(Some(inner), None).unwrap(), [window(0, 0x8000_0000, 0x4000_0000)]);
    }

    #[test]
    fn lines_that_are_no_lines_are_an_error() {
        assert_eq!(ranges(Some(&[1, 2, 3]), None), Err(Reason::Malformed("dma-ranges")));
        assert_eq!(ranges(None, Some(&[1])), Err(Reason::Malformed("dma-ranges")));
        let apart = ranges(Some(&[0, 0, 0, 0x1000]), Some(&[0, 0x1000, 0, 0, 0x1000]));
        assert_eq!(
            apart,
            Err(Reason::Malformed("dma-ranges")),
            "nothing is reached, which is not everything"
        );
    }

    #[test]
    fn a_host_bridge_has_ranges_of_its_own() {
        let mut model = fixture::virt();
        let host = |model: &DeviceTree| {
            let blob = model.to_dtb();
            Tree::new(&blob).unwrap().find("/pcie").unwrap().pci_dma_windows()
        };
        assert_eq!(host(&model), Ok(vec![]));
        let lines = fixture::cells("dma-ranges", &[0x0200_0000, 0, 0, 0x1, 0, 0, 0xc000_0000]);
        fixture::find(&mut model, "/pcie").add_property(lines);
        assert_eq!(host(&model).unwrap(), [window(0, 0x1_0000_0000, 0xc000_0000)]);
        fixture::find(&mut model, "/pcie").add_property(fixture::cells("dma-ranges", &[0; 6]));
        assert_eq!(host(&model), Err(Reason::Malformed("dma-ranges")));
    }
}
