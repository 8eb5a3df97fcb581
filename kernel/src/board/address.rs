//! `reg` and the buses between it and the CPU.

use super::place::Cells;
use super::{Place, Reason};
use addr::{AddrRange, Address, PhysAddr};

/// One line of a `ranges` or `dma-ranges` property, whose child addresses have at most two cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BusRange {
    pub child: u64,
    pub parent: u64,
    pub len: u64,
}

/// Physical addresses are no wider: descriptors for 4 KiB pages hold no more bits (DDI 0487, D8.3, without FEAT_LPA2).
const PHYSICAL_BITS: u32 = 48;

/// The range of addresses, or the reason that it cannot exist.
pub(super) fn range<A: Address>(start: u64, len: u64) -> Result<AddrRange<A>, Reason> {
    AddrRange::from_len(A::new(start), len).ok_or(Reason::PastTheEnd { start, len })
}

/// The lines of `bus`'s property `name` (`ranges` or `dma-ranges`): `None` when it is missing, no lines when it is
/// empty.
pub(super) fn bus_ranges<'a>(
    bus: &Place<'a>,
    name: &'static str,
) -> Result<Option<impl Iterator<Item = BusRange> + use<'a>>, Reason> {
    let Some(value) = bus.property(name) else { return Ok(None) };
    let child = bus.address_cells();
    let parent = bus.parent().map_or(2, |parent| parent.address_cells());
    let size = bus.size_cells();
    let mut cells = bus.cells(name).ok_or(Reason::Malformed(name))?;
    let line = child.saturating_add(parent).saturating_add(size);
    if !value.is_empty() && (line == 0 || child > 2 || !cells.len().is_multiple_of(line)) {
        return Err(Reason::Malformed(name));
    }
    Ok(Some(core::iter::from_fn(move || {
        let child = cells.take(child)?;
        Some(BusRange { child, parent: cells.take(parent)?, len: cells.take(size)? })
            .filter(|range| range.len != 0)
    })))
}

impl<'a> Place<'a> {
    /// The register ranges, as the CPU sees them.
    pub fn regs(
        &self,
    ) -> Result<impl Iterator<Item = Result<AddrRange<PhysAddr>, Reason>> + use<'a>, Reason> {
        let bus = self.parent().ok_or(Reason::Missing("reg"))?;
        let (address, size) = (bus.address_cells(), bus.size_cells());
        self.property("reg").ok_or(Reason::Missing("reg"))?;
        let mut cells = self.cells("reg").ok_or(Reason::Malformed("reg"))?;
        let line = address.saturating_add(size);
        // On a bus without addresses `reg` says nothing of where.
        if address == 0 || !cells.len().is_multiple_of(line) {
            return Err(Reason::Malformed("reg"));
        }
        Ok(core::iter::from_fn(move || {
            (!cells.is_empty()).then(|| register(&bus, &mut cells, address, size))
        }))
    }

    /// Register range `index`, as the CPU sees it; never empty.
    pub fn reg(&self, index: usize) -> Result<AddrRange<PhysAddr>, Reason> {
        let reg = self.regs()?.nth(index).ok_or(Reason::Missing("reg"))??;
        if reg.is_empty() { Err(Reason::Malformed("reg")) } else { Ok(reg) }
    }
}

fn register(
    bus: &Place<'_>,
    cells: &mut Cells<'_>,
    address: usize,
    size: usize,
) -> Result<AddrRange<PhysAddr>, Reason> {
    let (mut address, mut size) = (cells.split(address), cells.split(size));
    let number = |cells: &mut Option<Cells<'_>>| {
        let cells = cells.as_mut()?;
        let len = cells.len();
        cells.take(len)
    };
    let (Some(start), Some(len)) = (number(&mut address), number(&mut size)) else {
        return Err(Reason::Malformed("reg"));
    };
    to_cpu(bus, start, len)
}

/// What the CPU calls the `len` bytes at `start` on `bus`, by the `ranges` of all buses up to the root.
pub(super) fn to_cpu(bus: &Place<'_>, start: u64, len: u64) -> Result<AddrRange<PhysAddr>, Reason> {
    let mut at = start;
    for bus in bus.upward().filter(|bus| bus.parent().is_some()) {
        let mut lines = bus_ranges(&bus, "ranges")?.ok_or(Reason::Unreachable(at))?.peekable();
        if lines.peek().is_some() {
            at = lines.find_map(|line| through(line, at, len)).ok_or(Reason::Unreachable(at))?;
        }
    }
    range(at, len).and_then(|range: AddrRange<PhysAddr>| {
        let reachable = range.end().raw() <= 1 << PHYSICAL_BITS;
        if reachable { Ok(range) } else { Err(Reason::PastTheEnd { start: at, len }) }
    })
}

/// Where `line` moves the `len` bytes at `at`, if it has all of them.
fn through(line: BusRange, at: u64, len: u64) -> Option<u64> {
    let offset = at.checked_sub(line.child)?;
    (offset.checked_add(len)? <= line.len).then_some(line.parent.checked_add(offset)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Tree, fixture};
    use super::*;
    use dtoolkit::model::DeviceTree;

    /// A device at 0x7e20_1000 + 0x200 on a bus with the given `ranges`, on another bus that moves 1:1.
    fn on_a_bus(ranges: Option<&[u32]>) -> Result<AddrRange<PhysAddr>, Reason> {
        let device =
            fixture::node("device@7e201000").property(fixture::cells("reg", &[0x7e20_1000, 0x200])).build();
        let bus = fixture::node("soc").property(fixture::cells("#address-cells", &[1])).child(device);
        let bus = match ranges {
            Some(cells) => bus.property(fixture::cells("ranges", cells)),
            None => bus,
        };
        let mut model = DeviceTree::new();
        model.root.add_property(fixture::cells("#address-cells", &[2]));
        model.root.add_child(
            fixture::node("outer").property(fixture::cells("ranges", &[])).child(bus.build()).build(),
        );
        let blob = model.to_dtb();
        Tree::new(&blob).unwrap().find("/outer/soc/device").unwrap().reg(0)
    }

    #[test]
    fn every_bus_moves_the_address() {
        let moved = on_a_bus(Some(&[
            0x7d00_0000,
            0,
            0xfd00_0000,
            0x100_0000,
            0x7e00_0000,
            0,
            0xfe00_0000,
            0x180_0000,
        ]));
        assert_eq!(moved, range(0xfe20_1000, 0x200));
        assert_eq!(on_a_bus(Some(&[])), range(0x7e20_1000, 0x200));
    }

    #[test]
    fn what_no_bus_leads_to_has_no_address() {
        assert_eq!(on_a_bus(None), Err(Reason::Unreachable(0x7e20_1000)));
        assert_eq!(on_a_bus(Some(&[0x7e00_0000, 0, 0, 0x20_1100])), Err(Reason::Unreachable(0x7e20_1000)));
        assert_eq!(on_a_bus(Some(&[1, 2, 3])), Err(Reason::Malformed("ranges")));
        let end = on_a_bus(Some(&[0x7e00_0000, 0xffff_ffff, 0xffdf_ef00, 0x100_0000]));
        assert_eq!(end, Err(Reason::PastTheEnd { start: 0xffff_ffff_ffff_ff00, len: 0x200 }));
    }

    #[test]
    fn a_bus_without_addresses_has_no_registers() {
        let mut model = fixture::virt();
        model.root.add_property(fixture::cells("#address-cells", &[0]));
        let blob = model.to_dtb();
        let reg = Tree::new(&blob).unwrap().find("/smmuv3").unwrap().reg(0);
        assert_eq!(reg, Err(Reason::Malformed("reg")));
    }

    #[test]
    fn a_reg_of_the_wrong_length_is_malformed() {
        for (cells, reason) in [
            (&[][..], Reason::Missing("reg")),
            (&[1, 2, 3][..], Reason::Malformed("reg")),
            (&[0, 1, 0, 0][..], Reason::Malformed("reg")),
            (&[u32::MAX, u32::MAX, 0, 2][..], Reason::PastTheEnd { start: u64::MAX, len: 2 }),
            (&[0xffff, u32::MAX, 0, 2][..], Reason::PastTheEnd { start: 0xffff_ffff_ffff, len: 2 }),
        ] {
            let mut model = fixture::virt();
            fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("reg", cells));
            let blob = model.to_dtb();
            assert_eq!(Tree::new(&blob).unwrap().find("/smmuv3").unwrap().reg(0), Err(reason));
        }
    }
}
