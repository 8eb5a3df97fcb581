//! Memory, reservations, the initramfs, and `/chosen`.

use super::translation::range;
use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};

/// Memory that the kernel must not use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// The reserved range.
    pub range: AddrRange<PhysAddr>,
    /// Whether the range must not be mapped either, so that no CPU accesses it speculatively.
    pub no_map: bool,
}

impl<'a> DeviceTree<'a> {
    /// The ranges of the memory nodes, in the order of the tree; they may overlap.
    pub fn memory(
        &self,
    ) -> impl Iterator<Item = (TreeNode<'a>, Result<AddrRange<PhysAddr>, NodeError>)> + use<'a> {
        let nodes = self.root().children();
        let nodes = nodes.filter(|node| node.text("device_type") == Some("memory") && node.is_enabled());
        nodes.flat_map(|node| each_reg(&node).map(move |reg| (node, reg)))
    }

    /// The reservations in `/memreserve/` and `/reserved-memory`. They do not include the device tree itself
    /// and the initramfs.
    pub fn reservations(
        &self,
    ) -> impl Iterator<Item = (TreeNode<'a>, Result<Reservation, NodeError>)> + use<'a> {
        let root = self.root();
        let memreserve = self.fdt.memory_reservations().map(move |entry| {
            let range = range(entry.address(), entry.size());
            (root, range.map(|range| Reservation { range, no_map: false }))
        });
        let nodes = self.find("/reserved-memory").into_iter().flat_map(|node| node.children());
        let nodes = nodes.filter(|node| node.is_enabled() && !reserves_no_memory(node)).flat_map(|node| {
            let no_map = node.property("no-map").is_some();
            each_reg(&node).map(move |reg| {
                let error = |error| {
                    if error == NodeError::Missing("reg") { NodeError::DynamicReservation } else { error }
                };
                (node, reg.map(|range| Reservation { range, no_map }).map_err(error))
            })
        });
        memreserve.chain(nodes)
    }

    /// The initramfs, if the boot loader passed one.
    pub fn initrd(&self) -> Result<Option<AddrRange<PhysAddr>>, NodeError> {
        let Some(chosen) = self.find("/chosen") else { return Ok(None) };
        let edge =
            |name| chosen.property(name).map(|_| chosen.number(name).ok_or(NodeError::Malformed(name)));
        let (start, end) = (edge("linux,initrd-start").transpose()?, edge("linux,initrd-end").transpose()?);
        match (start, end) {
            (None, None) => Ok(None),
            (Some(start), Some(end)) => {
                let len = end.checked_sub(start).ok_or(NodeError::Malformed("linux,initrd-end"))?;
                range(start, len).map(Some)
            }
            (Some(_), None) => Err(NodeError::Missing("linux,initrd-end")),
            (None, Some(_)) => Err(NodeError::Missing("linux,initrd-start")),
        }
    }

    /// Random bytes from the boot loader (`rng-seed`); empty if there are none.
    pub fn rng_seed(&self) -> &'a [u8] {
        self.find("/chosen").and_then(|chosen| chosen.property("rng-seed")).unwrap_or(&[])
    }

    /// The boot arguments; empty if there are none.
    pub fn bootargs(&self) -> Result<&'a str, NodeError> {
        const NAME: &str = "bootargs";
        match self.find("/chosen").filter(|chosen| chosen.property(NAME).is_some_and(|text| !text.is_empty()))
        {
            Some(chosen) => chosen.text(NAME).ok_or(NodeError::Malformed(NAME)),
            None => Ok(""),
        }
    }
}

/// Whether the node only requests a pool for devices (`reusable`, without an address), such as Linux's CMA,
/// whose memory is usable for other purposes, or only names device addresses (`iommu-addresses`).
fn reserves_no_memory(node: &TreeNode<'_>) -> bool {
    let has = |name| node.property(name).is_some();
    !has("reg") && (has("reusable") || has("iommu-addresses") && !has("size"))
}

/// The non-empty register ranges, or the error that prevents reading any.
fn each_reg<'a>(
    node: &TreeNode<'a>,
) -> impl Iterator<Item = Result<AddrRange<PhysAddr>, NodeError>> + use<'a> {
    let (regs, failed) = match node.regs() {
        Ok(regs) => (Some(regs), None),
        Err(error) => (None, Some(Err(error))),
    };
    let filled = |reg: &Result<AddrRange<PhysAddr>, NodeError>| !reg.as_ref().is_ok_and(|reg| reg.is_empty());
    failed.into_iter().chain(regs.into_iter().flatten().filter(filled))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use dtoolkit::memreserve::MemoryReservation;
    use dtoolkit::model::DeviceTree as TreeModel;

    fn with_tree<R>(model: &TreeModel, then: impl FnOnce(&DeviceTree<'_>) -> R) -> R {
        then(&DeviceTree::new(&model.to_dtb()).unwrap())
    }

    fn at(start: u64, len: u64) -> AddrRange<PhysAddr> {
        range(start, len).unwrap()
    }

    #[test]
    fn memory_nodes_are_found_by_device_type() {
        let mut model = fixture::virt();
        let far = fixture::node("memory@8000000000")
            .property(fixture::text("device_type", "memory"))
            .property(fixture::cells("reg", &[0x80, 0, 0, 0x1000, 0, 0, 0, 0, u32::MAX, u32::MAX, 1, 0]));
        model.root.add_child(far.build());
        let off = fixture::node("memory@1").property(fixture::text("device_type", "memory"));
        model.root.add_child(off.property(fixture::text("status", "disabled")).build());
        model.root.add_child(
            fixture::node("memory-controller@2").property(fixture::cells("reg", &[0, 2, 0, 2])).build(),
        );
        let found: Vec<_> = with_tree(&model, |tree| tree.memory().map(|(_, range)| range).collect());
        let past = NodeError::AddressOverflow { start: u64::MAX, len: 1 << 32 };
        assert_eq!(found, [Ok(at(0x4000_0000, 0x4000_0000)), Ok(at(0x80_0000_0000, 0x1000)), Err(past)]);
    }

    #[test]
    fn memreserve_and_reserved_memory_nodes_are_reserved() {
        let mut model = fixture::virt();
        model.memory_reservations.push(MemoryReservation::new(0x4000_0000, 0x1000));
        model.memory_reservations.push(MemoryReservation::new(u64::MAX, 2));
        let fixed = fixture::node("secure@4e000000")
            .property(fixture::cells("reg", &[0, 0x4e00_0000, 0, 0x100_0000]))
            .property(fixture::cells("no-map", &[]));
        let anywhere = fixture::node("firmware").property(fixture::cells("size", &[0, 0x400_0000]));
        let pool = fixture::node("linux,cma")
            .property(fixture::cells("size", &[0, 0x400_0000]))
            .property(fixture::cells("reusable", &[]));
        let parent = fixture::node("reserved-memory")
            .property(fixture::cells("#address-cells", &[2]))
            .property(fixture::cells("#size-cells", &[2]))
            .property(fixture::cells("ranges", &[]));
        let parent = parent.child(fixed.build()).child(anywhere.build()).child(pool.build());
        model.root.add_child(parent.build());
        let found: Vec<_> = with_tree(&model, |tree| tree.reservations().map(|(_, found)| found).collect());
        let expected = [
            Ok(Reservation { range: at(0x4000_0000, 0x1000), no_map: false }),
            Err(NodeError::AddressOverflow { start: u64::MAX, len: 2 }),
            Ok(Reservation { range: at(0x4e00_0000, 0x100_0000), no_map: true }),
            Err(NodeError::DynamicReservation),
        ];
        assert_eq!(found, expected);
    }

    /// A reservation without an address is an error, unless the node reserves no memory.
    #[test]
    fn only_reusable_pools_and_device_addresses_need_no_memory() {
        let (size, iovas, reusable) = (
            || fixture::cells("size", &[0, 0x40_0000]),
            || fixture::cells("iommu-addresses", &[1, 0, 0, 0, 0x1000]),
            || fixture::cells("reusable", &[]),
        );
        let error = vec![Err(NodeError::DynamicReservation)];
        for (properties, expected) in [
            (vec![], error.clone()),
            (vec![size()], error.clone()),
            (vec![size(), iovas()], error),
            (vec![iovas()], vec![]),
            (vec![size(), reusable()], vec![]),
        ] {
            let child = properties.into_iter().fold(fixture::node("region"), |node, own| node.property(own));
            let mut model = fixture::virt();
            model.root.add_child(fixture::node("reserved-memory").child(child.build()).build());
            let found: Vec<_> = with_tree(&model, |tree| tree.reservations().map(|(_, own)| own).collect());
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn initrd_addresses_may_have_one_or_two_cells() {
        let initrd = |start: Option<&[u32]>, end: Option<&[u32]>| {
            let mut model = fixture::virt();
            let chosen = fixture::find(&mut model, "/chosen");
            for (name, value) in [("linux,initrd-start", start), ("linux,initrd-end", end)] {
                if let Some(cells) = value {
                    chosen.add_property(fixture::cells(name, cells));
                }
            }
            with_tree(&model, |tree| tree.initrd())
        };
        assert_eq!(initrd(None, None), Ok(None));
        assert_eq!(initrd(Some(&[0x4800_0000]), Some(&[0x4830_0001])), Ok(Some(at(0x4800_0000, 0x30_0001))));
        assert_eq!(initrd(Some(&[1, 0]), Some(&[1, 0x10])), Ok(Some(at(0x1_0000_0000, 0x10))));
        assert_eq!(initrd(Some(&[0x10]), None), Err(NodeError::Missing("linux,initrd-end")));
        assert_eq!(initrd(None, Some(&[0x10])), Err(NodeError::Missing("linux,initrd-start")));
        assert_eq!(initrd(Some(&[0x10]), Some(&[0xf])), Err(NodeError::Malformed("linux,initrd-end")));
        assert_eq!(initrd(Some(&[1, 2, 3]), Some(&[0xf])), Err(NodeError::Malformed("linux,initrd-start")));
    }

    #[test]
    fn boot_arguments_must_be_a_terminated_utf8_string() {
        let mut model = fixture::virt();
        let bootargs = |model: &TreeModel| with_tree(model, |tree| tree.bootargs().map(str::to_owned));
        assert_eq!(bootargs(&model), Ok(String::new()));
        fixture::find(&mut model, "/chosen").add_property(fixture::text("bootargs", "selftest=a*"));
        assert_eq!(bootargs(&model), Ok("selftest=a*".to_owned()));
        for odd in [&b"selftest=\xff\0"[..], b"selftest"] {
            fixture::find(&mut model, "/chosen").add_property(fixture::bytes("bootargs", odd));
            assert_eq!(bootargs(&model), Err(NodeError::Malformed("bootargs")));
        }
    }
}
