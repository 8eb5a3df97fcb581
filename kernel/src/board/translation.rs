//! Translation of bus addresses (`reg`) to CPU physical addresses through the `ranges` of the parent buses.

use super::node::Cells;
use super::{NodeError, TreeNode};
use addr::{AddrRange, Address, PhysAddr};

/// An entry of a `ranges` or `dma-ranges` property with child addresses of at most two cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BusRange {
    pub child: u64,
    pub parent: u64,
    pub len: u64,
}

/// The width of a physical address in descriptors for 4 KiB pages (DDI 0487, D8.3, without FEAT_LPA2).
const PHYSICAL_BITS: u32 = 48;

/// The address range, unless it exceeds the address space.
pub(super) fn range<A: Address>(start: u64, len: u64) -> Result<AddrRange<A>, NodeError> {
    AddrRange::from_len(A::new(start), len).ok_or(NodeError::AddressOverflow { start, len })
}

/// The value of a property `ranges` or `dma-ranges`.
pub(super) enum BusMapping<I> {
    /// There is no such property.
    Missing,
    /// The property is empty: child and parent addresses are identical.
    Identity,
    /// Its entries that are not empty; possibly none.
    Entries(I),
}

/// The property `name` (`ranges` or `dma-ranges`) of `bus`.
pub(super) fn bus_mapping<'a>(
    bus: &TreeNode<'a>,
    name: &'static str,
) -> Result<BusMapping<impl Iterator<Item = BusRange> + use<'a>>, NodeError> {
    match bus.property(name) {
        None => return Ok(BusMapping::Missing),
        Some([]) => return Ok(BusMapping::Identity),
        Some(_) => {}
    }
    let child = bus.address_cells();
    let parent = bus.parent().map_or(2, |parent| parent.address_cells());
    let size = bus.size_cells();
    let mut cells = bus.cells(name).ok_or(NodeError::Malformed(name))?;
    let entry = child.saturating_add(parent).saturating_add(size);
    if entry == 0 || child > 2 || !cells.len().is_multiple_of(entry) {
        return Err(NodeError::Malformed(name));
    }
    let entries = core::iter::from_fn(move || {
        Some(BusRange { child: cells.take(child)?, parent: cells.take(parent)?, len: cells.take(size)? })
    });
    Ok(BusMapping::Entries(entries.filter(|entry| entry.len != 0)))
}

impl<'a> TreeNode<'a> {
    /// The register ranges in CPU physical addresses.
    pub fn regs(
        &self,
    ) -> Result<impl Iterator<Item = Result<AddrRange<PhysAddr>, NodeError>> + use<'a>, NodeError> {
        let bus = self.parent().ok_or(NodeError::Missing("reg"))?;
        let (address, size) = (bus.address_cells(), bus.size_cells());
        self.property("reg").ok_or(NodeError::Missing("reg"))?;
        let mut cells = self.cells("reg").ok_or(NodeError::Malformed("reg"))?;
        let entry = address.saturating_add(size);
        // With #address-cells = 0, `reg` holds no address.
        if address == 0 || !cells.len().is_multiple_of(entry) {
            return Err(NodeError::Malformed("reg"));
        }
        Ok(core::iter::from_fn(move || {
            (!cells.is_empty()).then(|| register(&bus, &mut cells, address, size))
        }))
    }

    /// Register range `index` in CPU physical addresses; never empty, aligned for the widest register.
    pub fn reg(&self, index: usize) -> Result<AddrRange<PhysAddr>, NodeError> {
        self.regs()?.nth(index).ok_or(NodeError::Missing("reg"))?.and_then(checked_registers)
    }
}

/// Returns the register range if it is not empty and aligned to 8 bytes, which `Mmio` requires.
pub(super) fn checked_registers(range: AddrRange<PhysAddr>) -> Result<AddrRange<PhysAddr>, NodeError> {
    match range.is_empty() {
        true => Err(NodeError::Malformed("reg")),
        false if !range.start().is_aligned(8) => Err(NodeError::Misaligned(range.start())),
        false => Ok(range),
    }
}

fn register(
    bus: &TreeNode<'_>,
    cells: &mut Cells<'_>,
    address: usize,
    size: usize,
) -> Result<AddrRange<PhysAddr>, NodeError> {
    let (mut address, mut size) = (cells.split(address), cells.split(size));
    let number = |cells: &mut Option<Cells<'_>>| {
        let cells = cells.as_mut()?;
        let len = cells.len();
        cells.take(len)
    };
    let (Some(start), Some(len)) = (number(&mut address), number(&mut size)) else {
        return Err(NodeError::Malformed("reg"));
    };
    translate(bus, start, len)
}

/// The CPU physical range of the `len` bytes at `start` on `bus`: translates through the `ranges` of all
/// buses up to the root.
pub(super) fn translate(bus: &TreeNode<'_>, start: u64, len: u64) -> Result<AddrRange<PhysAddr>, NodeError> {
    let mut at = start;
    for bus in bus.ancestors().filter(|bus| bus.parent().is_some()) {
        let parent = match bus_mapping(&bus, "ranges")? {
            BusMapping::Missing => None,
            BusMapping::Identity => Some(at),
            BusMapping::Entries(mut entries) => entries.find_map(|entry| entry.translate(at, len)),
        };
        at = parent.ok_or(NodeError::Unreachable(at))?;
    }
    range(at, len).and_then(|range: AddrRange<PhysAddr>| {
        let reachable = range.end().raw() <= 1 << PHYSICAL_BITS;
        if reachable { Ok(range) } else { Err(NodeError::AddressOverflow { start: at, len }) }
    })
}

impl BusRange {
    /// The parent address of the `len` bytes at `at`; `None` unless the entry covers all of them.
    fn translate(self, at: u64, len: u64) -> Option<u64> {
        let offset = at.checked_sub(self.child)?;
        (offset.checked_add(len)? <= self.len).then_some(self.parent.checked_add(offset)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceTree, tests::fixture};
    use super::*;
    use dtoolkit::model::DeviceTree as TreeModel;

    /// Register range 0 of a device at 0x7e20_1000 + 0x200 on a bus with `ranges`, below a bus with an
    /// identity mapping.
    fn device_reg(ranges: Option<&[u32]>) -> Result<AddrRange<PhysAddr>, NodeError> {
        let device =
            fixture::node("device@7e201000").property(fixture::cells("reg", &[0x7e20_1000, 0x200])).build();
        let bus = fixture::node("soc").property(fixture::cells("#address-cells", &[1])).child(device);
        let bus = match ranges {
            Some(cells) => bus.property(fixture::cells("ranges", cells)),
            None => bus,
        };
        let mut model = TreeModel::new();
        model.root.add_property(fixture::cells("#address-cells", &[2]));
        model.root.add_child(
            fixture::node("outer").property(fixture::cells("ranges", &[])).child(bus.build()).build(),
        );
        let blob = model.to_dtb();
        DeviceTree::new(&blob).unwrap().find("/outer/soc/device").unwrap().reg(0)
    }

    #[test]
    fn address_is_translated_by_every_bus() {
        let translated = device_reg(Some(&[
            0x7d00_0000,
            0,
            0xfd00_0000,
            0x100_0000,
            0x7e00_0000,
            0,
            0xfe00_0000,
            0x180_0000,
        ]));
        assert_eq!(translated, range(0xfe20_1000, 0x200));
        assert_eq!(device_reg(Some(&[])), range(0x7e20_1000, 0x200));
    }

    #[test]
    fn empty_entries_translate_nothing() {
        let only_empty = device_reg(Some(&[0x7e00_0000, 0, 0, 0]));
        assert_eq!(only_empty, Err(NodeError::Unreachable(0x7e20_1000)));
        let after_empty = device_reg(Some(&[0, 0, 0, 0, 0x7e00_0000, 0, 0xfe00_0000, 0x180_0000]));
        assert_eq!(after_empty, range(0xfe20_1000, 0x200));
    }

    #[test]
    fn misaligned_registers_are_an_error() {
        let shifted = |by| device_reg(Some(&[0x7e00_0000, 0, by, 0x180_0000]));
        assert_eq!(shifted(8), range(0x20_1008, 0x200));
        assert_eq!(shifted(4), Err(NodeError::Misaligned(PhysAddr::new(0x20_1004))));
    }

    #[test]
    fn untranslatable_address_is_an_error() {
        assert_eq!(device_reg(None), Err(NodeError::Unreachable(0x7e20_1000)));
        assert_eq!(
            device_reg(Some(&[0x7e00_0000, 0, 0, 0x20_1100])),
            Err(NodeError::Unreachable(0x7e20_1000))
        );
        assert_eq!(device_reg(Some(&[1, 2, 3])), Err(NodeError::Malformed("ranges")));
        let end = device_reg(Some(&[0x7e00_0000, 0xffff_ffff, 0xffdf_ef00, 0x100_0000]));
        assert_eq!(end, Err(NodeError::AddressOverflow { start: 0xffff_ffff_ffff_ff00, len: 0x200 }));
    }

    #[test]
    fn reg_on_a_bus_with_zero_address_cells_is_malformed() {
        let mut model = fixture::virt();
        model.root.add_property(fixture::cells("#address-cells", &[0]));
        let blob = model.to_dtb();
        let reg = DeviceTree::new(&blob).unwrap().find("/smmuv3").unwrap().reg(0);
        assert_eq!(reg, Err(NodeError::Malformed("reg")));
    }

    #[test]
    fn reg_of_the_wrong_length_is_malformed() {
        for (cells, error) in [
            (&[][..], NodeError::Missing("reg")),
            (&[1, 2, 3][..], NodeError::Malformed("reg")),
            (&[0, 1, 0, 0][..], NodeError::Malformed("reg")),
            (&[u32::MAX, u32::MAX, 0, 2][..], NodeError::AddressOverflow { start: u64::MAX, len: 2 }),
            (&[0xffff, u32::MAX, 0, 2][..], NodeError::AddressOverflow { start: 0xffff_ffff_ffff, len: 2 }),
        ] {
            let mut model = fixture::virt();
            fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("reg", cells));
            let blob = model.to_dtb();
            assert_eq!(DeviceTree::new(&blob).unwrap().find("/smmuv3").unwrap().reg(0), Err(error));
        }
    }
}
