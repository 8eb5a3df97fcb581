//! Device addresses in use before the kernel starts, or not usable: `iommu-addresses` in the children of
//! `/reserved-memory`.

use super::node::Cells;
use super::translation::range;
use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, Iova};
use alloc::vec::Vec;
use drivers::pcie::Phandle;

const NAME: &str = "iommu-addresses";

impl DeviceTree<'_> {
    /// The device addresses that are reserved for `bus` or for a device below it.
    pub(super) fn reserved_iovas(&self, bus: &TreeNode<'_>) -> Result<Vec<AddrRange<Iova>>, NodeError> {
        let mut reserved = Vec::new();
        let regions = self.find("/reserved-memory").into_iter().flat_map(|node| node.children());
        for region in regions.filter(|region| region.is_enabled() && region.property(NAME).is_some()) {
            let mut cells = region.cells(NAME).ok_or(NodeError::Malformed(NAME))?;
            while let Some(phandle) = cells.next().map(Phandle) {
                let device = self.by_phandle(phandle).ok_or(NodeError::DanglingPhandle(phandle))?;
                let addresses = iovas(&device, &mut cells)?;
                if device.ancestors().any(|node| node.is_same(bus)) {
                    reserved.push(addresses);
                }
            }
        }
        Ok(reserved)
    }
}

/// The next address and length, in the format of the bus of `device`. A PCI address starts with a cell of
/// flags.
fn iovas(device: &TreeNode<'_>, cells: &mut Cells<'_>) -> Result<AddrRange<Iova>, NodeError> {
    const MALFORMED: NodeError = NodeError::Malformed(NAME);
    let bus = device.parent().ok_or(MALFORMED)?;
    let (mut address, size) = (bus.address_cells(), bus.size_cells());
    if address == 3 {
        cells.next().ok_or(MALFORMED)?;
        address = 2;
    }
    range(cells.take(address).ok_or(MALFORMED)?, cells.take(size).ok_or(MALFORMED)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use dtoolkit::model::DeviceTree as TreeModel;

    const HOST: u32 = 0x71;
    const FUNCTION: u32 = 0x72;
    const OTHER: u32 = 0x73;

    /// `virt` with a function's node below the host bridge, a device beside it, and `cells` in a region of
    /// `/reserved-memory`.
    fn with_region(cells: &[u32]) -> TreeModel {
        let mut model = fixture::virt();
        let function = fixture::node("display@1,0").property(fixture::cells("phandle", &[FUNCTION])).build();
        let host = fixture::find(&mut model, "/pcie");
        host.add_property(fixture::cells("phandle", &[HOST]));
        host.add_child(function);
        model.root.add_child(fixture::node("other").property(fixture::cells("phandle", &[OTHER])).build());
        let region = fixture::node("framebuffer").property(fixture::cells(NAME, cells)).build();
        model.root.add_child(fixture::node("reserved-memory").child(region).build());
        model
    }

    fn reserved(model: &TreeModel) -> Result<Vec<AddrRange<Iova>>, NodeError> {
        let blob = model.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        tree.reserved_iovas(&tree.find("/pcie").unwrap())
    }

    #[test]
    fn entries_of_the_bus_and_of_devices_below_it_are_reserved() {
        let entries = [
            &[HOST, 0, 0x1000_0000, 0, 0x20_0000][..],
            &[OTHER, 0, 0x3000_0000, 0, 0x1000],
            &[FUNCTION, 0x0200_0000, 1, 0, 0, 0x1000],
        ];
        let found = reserved(&with_region(&entries.concat())).unwrap();
        assert_eq!(found, [range(0x1000_0000, 0x20_0000).unwrap(), range(0x1_0000_0000, 0x1000).unwrap()]);
        assert_eq!(reserved(&fixture::virt()), Ok(vec![]));
    }

    #[test]
    fn malformed_entries_are_an_error() {
        for (cells, error) in [
            (&[HOST, 0, 0x1000_0000, 0][..], NodeError::Malformed(NAME)),
            (&[0x99, 0, 0, 0, 0x1000], NodeError::DanglingPhandle(Phandle(0x99))),
            (&[HOST, u32::MAX, u32::MAX, 1, 0], NodeError::AddressOverflow { start: u64::MAX, len: 1 << 32 }),
        ] {
            assert_eq!(reserved(&with_region(cells)), Err(error), "{cells:?}");
        }
    }
}
