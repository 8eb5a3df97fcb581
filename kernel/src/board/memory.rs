//! Which memory there is, and what of it is spoken for.

use super::address::range;
use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};

/// Memory that the tree says to leave alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Where.
    pub range: AddrRange<PhysAddr>,
    /// Whether it must not even be mapped, so that no CPU speculates into it.
    pub no_map: bool,
}

impl<'a> Tree<'a> {
    /// The memory nodes' ranges, in the tree's order, not yet checked for overlaps.
    pub fn memory(&self) -> impl Iterator<Item = (Place<'a>, Result<AddrRange<PhysAddr>, Reason>)> + use<'a> {
        let nodes = self.root().children();
        let nodes = nodes.filter(|place| place.text("device_type") == Some("memory") && place.is_enabled());
        nodes.flat_map(|place| each_reg(&place).map(move |reg| (place, reg)))
    }

    /// What must not be used: `/memreserve/` and `/reserved-memory`. The tree itself and the initial file system are
    /// not in it.
    pub fn reservations(&self) -> impl Iterator<Item = (Place<'a>, Result<Reservation, Reason>)> + use<'a> {
        let root = self.root();
        let block = self.fdt.memory_reservations().map(move |entry| {
            let range = range(entry.address(), entry.size());
            (root, range.map(|range| Reservation { range, no_map: false }))
        });
        let nodes = self.find("/reserved-memory").into_iter().flat_map(|place| place.children());
        let nodes = nodes.filter(|place| place.is_enabled() && !is_pool(place)).flat_map(|place| {
            let no_map = place.property("no-map").is_some();
            each_reg(&place).map(move |reg| {
                let reason = |reason| {
                    if reason == Reason::Missing("reg") { Reason::DynamicReservation } else { reason }
                };
                (place, reg.map(|range| Reservation { range, no_map }).map_err(reason))
            })
        });
        block.chain(nodes)
    }

    /// Where the boot loader put the initial file system, if it did.
    pub fn initrd(&self) -> Result<Option<AddrRange<PhysAddr>>, Reason> {
        let Some(chosen) = self.find("/chosen") else { return Ok(None) };
        let edge = |name| chosen.property(name).map(|_| chosen.number(name).ok_or(Reason::Malformed(name)));
        let (start, end) = (edge("linux,initrd-start").transpose()?, edge("linux,initrd-end").transpose()?);
        match (start, end) {
            (None, None) => Ok(None),
            (Some(start), Some(end)) => {
                let len = end.checked_sub(start).ok_or(Reason::Malformed("linux,initrd-end"))?;
                range(start, len).map(Some)
            }
            (Some(_), None) => Err(Reason::Missing("linux,initrd-end")),
            (None, Some(_)) => Err(Reason::Missing("linux,initrd-start")),
        }
    }

    /// Random bytes from the boot loader, empty when there are none.
    pub fn rng_seed(&self) -> &'a [u8] {
        self.find("/chosen").and_then(|chosen| chosen.property("rng-seed")).unwrap_or(&[])
    }

    /// The boot arguments, empty when there are none.
    pub fn bootargs(&self) -> Result<&'a str, Reason> {
        const NAME: &str = "bootargs";
        match self.find("/chosen").filter(|chosen| chosen.property(NAME).is_some_and(|text| !text.is_empty()))
        {
            Some(chosen) => chosen.text(NAME).ok_or(Reason::Malformed(NAME)),
            None => Ok(""),
        }
    }
}

/// Whether this asks for nothing but that the kernel keeps a pool for devices, which has no address yet and whose memory
/// may be used for all else meanwhile (`reusable`).
fn is_pool(place: &Place<'_>) -> bool {
    place.property("reg").is_none() && place.property("reusable").is_some()
}

/// The register ranges that are not empty, or the one reason that there are none.
fn each_reg<'a>(place: &Place<'a>) -> impl Iterator<Item = Result<AddrRange<PhysAddr>, Reason>> + use<'a> {
    let (regs, failed) = match place.regs() {
        Ok(regs) => (Some(regs), None),
        Err(reason) => (None, Some(Err(reason))),
    };
    let filled = |reg: &Result<AddrRange<PhysAddr>, Reason>| !reg.as_ref().is_ok_and(|reg| reg.is_empty());
    failed.into_iter().chain(regs.into_iter().flatten().filter(filled))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use dtoolkit::memreserve::MemoryReservation;
    use dtoolkit::model::DeviceTree;

    fn with<R>(model: &DeviceTree, then: impl FnOnce(&Tree<'_>) -> R) -> R {
        then(&Tree::new(&model.to_dtb()).unwrap())
    }

    fn at(start: u64, len: u64) -> AddrRange<PhysAddr> {
        range(start, len).unwrap()
    }

    #[test]
    fn memory_nodes_are_found_by_their_type() {
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
        let found: Vec<_> = with(&model, |tree| tree.memory().map(|(_, range)| range).collect());
        let past = Reason::PastTheEnd { start: u64::MAX, len: 1 << 32 };
        assert_eq!(found, [Ok(at(0x4000_0000, 0x4000_0000)), Ok(at(0x80_0000_0000, 0x1000)), Err(past)]);
    }

    #[test]
    fn both_kinds_of_reservation_count() {
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
        let found: Vec<_> = with(&model, |tree| tree.reservations().map(|(_, found)| found).collect());
        let expected = [
            Ok(Reservation { range: at(0x4000_0000, 0x1000), no_map: false }),
            Err(Reason::PastTheEnd { start: u64::MAX, len: 2 }),
            Ok(Reservation { range: at(0x4e00_0000, 0x100_0000), no_map: true }),
            Err(Reason::DynamicReservation),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_initrd_may_be_written_in_one_or_two_cells() {
        let initrd = |start: Option<&[u32]>, end: Option<&[u32]>| {
            let mut model = fixture::virt();
            let chosen = fixture::find(&mut model, "/chosen");
            for (name, value) in [("linux,initrd-start", start), ("linux,initrd-end", end)] {
                if let Some(cells) = value {
                    chosen.add_property(fixture::cells(name, cells));
                }
            }
            with(&model, |tree| tree.initrd())
        };
        assert_eq!(initrd(None, None), Ok(None));
        assert_eq!(initrd(Some(&[0x4800_0000]), Some(&[0x4830_0001])), Ok(Some(at(0x4800_0000, 0x30_0001))));
        assert_eq!(initrd(Some(&[1, 0]), Some(&[1, 0x10])), Ok(Some(at(0x1_0000_0000, 0x10))));
        assert_eq!(initrd(Some(&[0x10]), None), Err(Reason::Missing("linux,initrd-end")));
        assert_eq!(initrd(None, Some(&[0x10])), Err(Reason::Missing("linux,initrd-start")));
        assert_eq!(initrd(Some(&[0x10]), Some(&[0xf])), Err(Reason::Malformed("linux,initrd-end")));
        assert_eq!(initrd(Some(&[1, 2, 3]), Some(&[0xf])), Err(Reason::Malformed("linux,initrd-start")));
    }

    #[test]
    fn boot_arguments_are_text_or_nothing() {
        let mut model = fixture::virt();
        let bootargs = |model: &DeviceTree| with(model, |tree| tree.bootargs().map(str::to_owned));
        assert_eq!(bootargs(&model), Ok(String::new()));
        fixture::find(&mut model, "/chosen").add_property(fixture::text("bootargs", "selftest=a*"));
        assert_eq!(bootargs(&model), Ok("selftest=a*".to_owned()));
        for odd in [&b"selftest=\xff\0"[..], b"selftest"] {
            fixture::find(&mut model, "/chosen").add_property(fixture::bytes("bootargs", odd));
            assert_eq!(bootargs(&model), Err(Reason::Malformed("bootargs")));
        }
    }
}
