//! Bus addresses of memory for a device without an IOMMU: the `dma-ranges` of all parent buses.

use super::node::Cells;
use super::translation::{BusMapping, BusRange, bus_mapping};
use super::{NodeError, TreeNode};
use addr::{AddrRange, Iova, PhysAddr};
use alloc::vec::Vec;
use drivers::direct::BusWindow;

impl TreeNode<'_> {
    /// The memory that this device reaches without an IOMMU, with its bus addresses.
    pub fn dma_windows(&self) -> Result<Vec<BusWindow>, NodeError> {
        // As in Linux, a missing property is equivalent to an empty one: an identity mapping.
        let mut windows = Vec::from([BusWindow::identity()]);
        let mut buses: Vec<_> = self.ancestors().skip(1).filter(|bus| bus.parent().is_some()).collect();
        while let Some(bus) = buses.pop() {
            if let BusMapping::Entries(entries) = bus_mapping(&bus, "dma-ranges")? {
                windows = through(&windows, entries)?;
            }
        }
        Ok(windows)
    }

    /// The same for the functions behind this PCI host bridge; its `dma-ranges` have three-cell child
    /// addresses.
    pub fn pci_dma_windows(&self) -> Result<Vec<BusWindow>, NodeError> {
        const MALFORMED: NodeError = NodeError::Malformed("dma-ranges");
        let windows = self.dma_windows()?;
        let Some(value) = self.property("dma-ranges").filter(|value| !value.is_empty()) else {
            return Ok(windows);
        };
        let parent = self.parent().map_or(2, |parent| parent.address_cells());
        let cells = self.cells("dma-ranges").ok_or(MALFORMED)?;
        let size = self.size_cells();
        let entry = parent.saturating_add(size).saturating_add(3);
        if self.address_cells() != 3 || !(value.len() / 4).is_multiple_of(entry) {
            return Err(MALFORMED);
        }
        through(&windows, pci_entries(cells, parent, size))
    }
}

/// The windows on a child bus with the `dma-ranges` `entries`, whose parent bus has `windows`.
fn through(
    windows: &[BusWindow],
    entries: impl Iterator<Item = BusRange>,
) -> Result<Vec<BusWindow>, NodeError> {
    let inside = |entry| windows.iter().filter_map(move |window| intersect(window, entry));
    let windows: Vec<_> = entries.flat_map(inside).collect();
    if windows.is_empty() { Err(NodeError::NoDmaWindow) } else { Ok(windows) }
}

/// The part of `window` that `entry` covers, in child bus addresses.
fn intersect(window: &BusWindow, entry: BusRange) -> Option<BusWindow> {
    let reachable = AddrRange::from_len(window.bus, window.memory.len())?;
    let translated = AddrRange::from_len(Iova::new(entry.parent), entry.len)?;
    let both = reachable.intersection(&translated)?;
    let start = window.memory.start().raw().checked_add(both.start().raw() - window.bus.raw())?;
    Some(BusWindow {
        memory: AddrRange::from_len(PhysAddr::new(start), both.len())?,
        bus: Iova::new(entry.child.checked_add(both.start().raw() - entry.parent)?),
    })
}

fn pci_entries(mut cells: Cells<'_>, parent: usize, size: usize) -> impl Iterator<Item = BusRange> {
    core::iter::from_fn(move || {
        cells.next()?;
        Some(BusRange { child: cells.take(2)?, parent: cells.take(parent)?, len: cells.take(size)? })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceTree, tests::fixture};
    use super::*;
    use dtoolkit::model::DeviceTree as TreeModel;

    /// The windows of a device on a bus with one-cell addresses below a bus with two-cell addresses, each
    /// with its `dma-ranges`.
    fn ranges(inner: Option<&[u32]>, outer: Option<&[u32]>) -> Result<Vec<BusWindow>, NodeError> {
        let mut near = fixture::node("near").property(fixture::cells("#address-cells", &[1]));
        let mut far = fixture::node("far").property(fixture::cells("#address-cells", &[2]));
        if let Some(cells) = inner {
            near = near.property(fixture::cells("dma-ranges", cells));
        }
        if let Some(cells) = outer {
            far = far.property(fixture::cells("dma-ranges", cells));
        }
        let mut model = TreeModel::new();
        let near = near.child(fixture::node("device").build()).build();
        model.root.add_child(far.child(near).build());
        let blob = model.to_dtb();
        DeviceTree::new(&blob).unwrap().find("/far/near/device").unwrap().dma_windows()
    }

    fn window(bus: u64, memory: u64, len: u64) -> BusWindow {
        let memory = AddrRange::from_len(PhysAddr::new(memory), len).unwrap();
        BusWindow { bus: Iova::new(bus), memory }
    }

    #[test]
    fn missing_or_empty_dma_ranges_are_an_identity_mapping() {
        for empty in [None, Some(&[][..])] {
            assert_eq!(ranges(empty, empty), Ok(vec![BusWindow::identity()]));
        }
    }

    #[test]
    fn window_translates_and_limits_addresses() {
        // As on a Raspberry Pi 3: memory from 0 to 0x3f00_0000 has bus addresses from 0xc000_0000.
        let ranges = ranges(Some(&[0xc000_0000, 0, 0, 0x3f00_0000]), None).unwrap();
        assert_eq!(ranges, [window(0xc000_0000, 0, 0x3f00_0000)]);
    }

    #[test]
    fn nested_buses_translate_twice() {
        let inner = &[0, 0, 0x8000_0000, 0x4000_0000][..];
        let outer = &[0, 0x9000_0000, 1, 0, 0x1000_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0x1000_0000][..];
        let found = ranges(Some(inner), Some(outer)).unwrap();
        assert_eq!(found, [window(0x1000_0000, 0x1_0000_0000, 0x1000_0000)]);
        assert_eq!(ranges(Some(inner), None).unwrap(), [window(0, 0x8000_0000, 0x4000_0000)]);
    }

    #[test]
    fn malformed_disjoint_or_empty_dma_ranges_are_an_error() {
        assert_eq!(ranges(Some(&[1, 2, 3]), None), Err(NodeError::Malformed("dma-ranges")));
        assert_eq!(ranges(None, Some(&[1])), Err(NodeError::Malformed("dma-ranges")));
        let disjoint = ranges(Some(&[0, 0, 0, 0x1000]), Some(&[0, 0x1000, 0, 0, 0x1000]));
        assert_eq!(
            disjoint,
            Err(NodeError::NoDmaWindow),
            "an empty set of windows must not be read as an identity mapping"
        );
        let empty_outside = ranges(None, Some(&[0, 0xc000_0000, 0, 0, 0]));
        for empty in [ranges(Some(&[0xc000_0000, 0, 0, 0]), None), empty_outside] {
            assert_eq!(empty, Err(NodeError::NoDmaWindow), "a window of size 0");
        }
    }

    #[test]
    fn host_bridge_dma_ranges_have_three_cell_addresses() {
        let mut model = fixture::virt();
        let host = |model: &TreeModel| {
            let blob = model.to_dtb();
            DeviceTree::new(&blob).unwrap().find("/pcie").unwrap().pci_dma_windows()
        };
        assert_eq!(host(&model), Ok(vec![BusWindow::identity()]));
        let lines = fixture::cells("dma-ranges", &[0x0200_0000, 0, 0, 0x1, 0, 0, 0xc000_0000]);
        fixture::find(&mut model, "/pcie").add_property(lines);
        assert_eq!(host(&model).unwrap(), [window(0, 0x1_0000_0000, 0xc000_0000)]);
        fixture::find(&mut model, "/pcie").add_property(fixture::cells("dma-ranges", &[0; 6]));
        assert_eq!(host(&model), Err(NodeError::Malformed("dma-ranges")));
    }
}
