//! The interrupt controller, and which of its interrupts a node raises.

use super::place::Cells;
use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};
use alloc::vec;
use alloc::vec::Vec;
use drivers::bcm2836::InterruptSource;
use drivers::gic::{self, IntId, Trigger};
use drivers::interrupts::Interrupt;
use drivers::pcie::Phandle;

const GIC_V2: [&str; 5] =
    ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,cortex-a9-gic", "arm,gic-v2"];
const GIC_V3: [&str; 1] = ["arm,gic-v3"];
const GIC_V3_ITS: [&str; 1] = ["arm,gic-v3-its"];
const BCM2836_LOCAL: [&str; 1] = ["brcm,bcm2836-l1-intc"];
const BCM2836_PERIPHERALS: [&str; 1] = ["brcm,bcm2836-armctrl-ic"];

/// SPIs that a GIC can have.
const SPIS: u32 = IntId::MAX_SPI_COUNT;

/// The machine's interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InterruptController {
    /// A GIC.
    Gic(Gic),
    /// A Raspberry Pi 3's two.
    Bcm2836 {
        /// The registers of the one beside the CPUs.
        local: AddrRange<PhysAddr>,
        /// Those of the peripherals' one, which is an input of the first.
        peripherals: AddrRange<PhysAddr>,
    },
}

impl InterruptController {
    /// The controller at `place`, or `None` when this is something else (or only a part of one).
    pub(super) fn read(tree: &Tree<'_>, place: &Place<'_>) -> Option<Result<Self, Reason>> {
        if place.is_compatible(&BCM2836_LOCAL) {
            // A Raspberry Pi 4 has the local one too, and has its devices at a GIC.
            let peripherals = tree.compatible(&BCM2836_PERIPHERALS).next()?;
            return Some(Self::read_bcm2836(place, &peripherals));
        }
        Gic::read(place).map(|gic| gic.map(Self::Gic))
    }

    /// Its registers.
    pub(super) fn registers(&self) -> Vec<AddrRange<PhysAddr>> {
        match self {
            Self::Gic(Gic::V2 { distributor, cpu_interface }) => vec![*distributor, *cpu_interface],
            Self::Gic(Gic::V3 { distributor, redistributors, its }) => {
                [&[*distributor][..], redistributors, its].concat()
            }
            Self::Bcm2836 { local, peripherals } => vec![*local, *peripherals],
        }
    }

    fn read_bcm2836(local: &Place<'_>, peripherals: &Place<'_>) -> Result<Self, Reason> {
        Ok(Self::Bcm2836 { local: local.reg(0)?, peripherals: peripherals.reg(0)? })
    }
}

/// A GIC's registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gic {
    /// GICv2.
    V2 {
        /// GICD.
        distributor: AddrRange<PhysAddr>,
        /// GICC, at the same address on each CPU.
        cpu_interface: AddrRange<PhysAddr>,
    },
    /// GICv3 and v4, whose CPU interface is system registers.
    V3 {
        /// GICD.
        distributor: AddrRange<PhysAddr>,
        /// GICR: regions with the frames of several CPUs each.
        redistributors: Vec<AddrRange<PhysAddr>>,
        /// The interrupt translation services.
        its: Vec<AddrRange<PhysAddr>>,
    },
}

impl Gic {
    /// The GIC at `place`, or `None` when this is something else.
    pub(super) fn read(place: &Place<'_>) -> Option<Result<Self, Reason>> {
        if place.is_compatible(&GIC_V3) {
            Some(Self::read_v3(place))
        } else if place.is_compatible(&GIC_V2) {
            Some(Self::read_v2(place))
        } else {
            None
        }
    }

    fn read_v2(place: &Place<'_>) -> Result<Self, Reason> {
        Ok(Self::V2 { distributor: place.reg(0)?, cpu_interface: place.reg(1)? })
    }

    fn read_v3(place: &Place<'_>) -> Result<Self, Reason> {
        let regions = place.cell("#redistributor-regions").unwrap_or(1).max(1) as usize;
        let redistributors = place.regs()?.skip(1).take(regions).collect::<Result<Vec<_>, _>>()?;
        if redistributors.len() != regions {
            return Err(Reason::Malformed("#redistributor-regions"));
        }
        let its = place.children().filter(|child| child.is_compatible(&GIC_V3_ITS) && child.is_enabled());
        let its = its.filter_map(|its| its.reg(0).ok()).collect();
        Ok(Self::V3 { distributor: place.reg(0)?, redistributors, its })
    }
}

impl<'a> Tree<'a> {
    /// Interrupt `index` of `place`.
    pub fn interrupt(&self, place: &Place<'a>, index: usize) -> Result<Interrupt, Reason> {
        if let Some(cells) = place.cells("interrupts-extended") {
            return self.extended(cells, index);
        }
        place.property("interrupts").ok_or(Reason::Missing("interrupts"))?;
        let cells = place.cells("interrupts").ok_or(Reason::Malformed("interrupts"))?;
        let parent = place.upward().find_map(|place| place.cell("interrupt-parent"));
        let parent = self.controller(Phandle(parent.ok_or(Reason::Missing("interrupt-parent"))?))?;
        nth(cells, index, &parent)
    }

    /// The interrupt that `place` calls `name`; `None` when it has none of that name.
    pub fn interrupt_named(&self, place: &Place<'a>, name: &str) -> Option<Result<Interrupt, Reason>> {
        let index = place.strings("interrupt-names").position(|own| own == name)?;
        Some(self.interrupt(place, index))
    }

    fn extended(&self, mut cells: Cells<'a>, index: usize) -> Result<Interrupt, Reason> {
        const NAME: &str = "interrupts-extended";
        for _ in 0..index {
            let parent = Phandle(cells.next().ok_or(Reason::Missing(NAME))?);
            let parent = self.by_phandle(parent).ok_or(Reason::NoSuchNode(parent))?;
            cells.split(parent.interrupt_cells()).ok_or(Reason::Malformed(NAME))?;
        }
        let parent = self.controller(Phandle(cells.next().ok_or(Reason::Missing(NAME))?))?;
        nth(cells, 0, &parent)
    }

    /// The node `phandle`, if it is an interrupt controller that the kernel drives.
    fn controller(&self, phandle: Phandle) -> Result<Place<'a>, Reason> {
        let place = self.by_phandle(phandle).ok_or(Reason::NoSuchNode(phandle))?;
        let is_known = [&GIC_V3[..], &GIC_V2, &BCM2836_LOCAL, &BCM2836_PERIPHERALS]
            .into_iter()
            .any(|names| place.is_compatible(names));
        if is_known { Ok(place) } else { Err(Reason::NoKnownController) }
    }

    /// The node `phandle`, if it is a GIC.
    pub(super) fn gic(&self, phandle: Phandle) -> Result<Place<'a>, Reason> {
        let place = self.by_phandle(phandle).ok_or(Reason::NoSuchNode(phandle))?;
        let is_gic = place.is_compatible(&GIC_V3) || place.is_compatible(&GIC_V2);
        if is_gic { Ok(place) } else { Err(Reason::NoKnownController) }
    }
}

impl Place<'_> {
    /// Cells in an interrupt of this controller.
    pub(super) fn interrupt_cells(&self) -> usize {
        self.cell("#interrupt-cells").unwrap_or(1) as usize
    }
}

/// Interrupt `index` of `cells`, as `parent` numbers them.
fn nth(mut cells: Cells<'_>, index: usize, parent: &Place<'_>) -> Result<Interrupt, Reason> {
    let is_bcm2836_local = parent.is_compatible(&BCM2836_LOCAL);
    let is_bcm2836 = is_bcm2836_local || parent.is_compatible(&BCM2836_PERIPHERALS);
    let width = parent.interrupt_cells();
    if (is_bcm2836 && width != 2) || (!is_bcm2836 && width < 3) {
        return Err(Reason::Malformed("#interrupt-cells"));
    }
    let skipped = index.checked_mul(width).and_then(|skip| cells.split(skip));
    skipped.ok_or(Reason::Missing("interrupts"))?;
    let mut own = cells.split(width).ok_or(Reason::Missing("interrupts"))?;
    match is_bcm2836 {
        true => decode_bcm2836(&mut own, is_bcm2836_local),
        false => decode(&mut own).map(Interrupt::Gic),
    }
}

/// The interrupt in two cells: number and flags at the local controller, bank and number at the peripherals'. All are
/// levels.
fn decode_bcm2836(cells: &mut Cells<'_>, local: bool) -> Result<Interrupt, Reason> {
    let mut next = || cells.next().ok_or(Reason::Malformed("interrupts"));
    let [first, second] = [next()?, next()?];
    let source = match local {
        true => InterruptSource::Local(first),
        false => InterruptSource::Peripheral { bank: first, number: second },
    };
    let exists = if local { first < 32 } else { first < 3 && second < 32 };
    if exists { Ok(Interrupt::Bcm2836(source)) } else { Err(Reason::BadInterrupt([first, second, 0])) }
}

/// The interrupt in a GIC's three or more cells: type, number, flags, and what partitioned PPIs add.
pub(super) fn decode(cells: &mut Cells<'_>) -> Result<gic::Interrupt, Reason> {
    let mut next = || cells.next().ok_or(Reason::Malformed("interrupts"));
    let raw @ [kind, number, flags] = [next()?, next()?, next()?];
    let id = match kind {
        0 if number < SPIS => IntId::spi(number),
        1 if number < IntId::PPI_COUNT => IntId::ppi(number),
        2 if number < IntId::MAX_ESPI_COUNT => IntId::espi(number),
        3 if number < IntId::MAX_EPPI_COUNT => IntId::eppi(number),
        _ => return Err(Reason::BadInterrupt(raw)),
    };
    // The upper flags are GICv2's CPU mask for PPIs.
    let trigger = match flags & 0xf {
        1 | 2 => Trigger::Edge,
        4 | 8 => Trigger::Level,
        _ => return Err(Reason::BadInterrupt(raw)),
    };
    Ok(gic::Interrupt { id, trigger })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use addr::PhysAddr;
    use dtoolkit::model::DeviceTree;

    fn interrupts(place: &str, change: &[(&str, &[u32])], index: usize) -> Result<Interrupt, Reason> {
        interrupts_in(fixture::virt(), place, change, index)
    }

    fn interrupts_of(
        model: &DeviceTree,
        change: &[(&str, &[u32])],
        index: usize,
    ) -> Result<Interrupt, Reason> {
        interrupts_in(model.clone(), "/pl011", change, index)
    }

    fn interrupts_in(
        mut model: DeviceTree,
        place: &str,
        change: &[(&str, &[u32])],
        index: usize,
    ) -> Result<Interrupt, Reason> {
        let node = fixture::find(&mut model, place);
        for (name, cells) in change {
            node.add_property(fixture::cells(name, cells));
        }
        let blob = model.to_dtb();
        let tree = Tree::new(&blob).unwrap();
        tree.interrupt(&tree.find(place).unwrap(), index)
    }

    #[test]
    fn interrupts_are_numbered_by_type() {
        let edge = |id| Ok(gic::Interrupt { id, trigger: Trigger::Edge }.into());
        let level = |id| Ok(gic::Interrupt { id, trigger: Trigger::Level }.into());
        assert_eq!(interrupts("/smmuv3", &[], 3), edge(IntId::spi(77)));
        assert_eq!(interrupts("/timer", &[], 2), level(IntId::ppi(11)));
        assert_eq!(interrupts("/pl011", &[], 0), level(IntId::spi(1)));
        assert_eq!(interrupts("/pl011", &[("interrupts", &[1, 7, 0xf08])], 0), level(IntId::ppi(7)));
        assert_eq!(interrupts("/pl011", &[("interrupts", &[2, 1023, 1])], 0), edge(IntId::espi(1023)));
        assert_eq!(interrupts("/pl011", &[("interrupts", &[3, 63, 2])], 0), edge(IntId::eppi(63)));
        let extended = &[fixture::CLOCK, 7, fixture::GIC, 0, 9, 1][..];
        assert_eq!(interrupts("/pl011", &[("interrupts-extended", extended)], 1), edge(IntId::spi(9)));
    }

    #[test]
    fn interrupts_that_do_not_exist_are_refused() {
        for cells in [[0, 988, 4], [1, 16, 4], [2, 1024, 4], [3, 64, 4], [4, 0, 4], [0, 1, 0], [0, 1, 3]] {
            assert_eq!(interrupts("/pl011", &[("interrupts", &cells)], 0), Err(Reason::BadInterrupt(cells)));
        }
        let cases: [(&str, &[u32], usize, Reason); 5] = [
            ("interrupts", &[0, 1], 0, Reason::Missing("interrupts")),
            ("interrupts", &[0, 1, 4], 1, Reason::Missing("interrupts")),
            ("interrupts", &[0, 1, 4], usize::MAX, Reason::Missing("interrupts")),
            ("interrupt-parent", &[0x1234], 0, Reason::NoSuchNode(Phandle(0x1234))),
            ("interrupt-parent", &[fixture::SMMU], 0, Reason::NoKnownController),
        ];
        for (name, cells, index, reason) in cases {
            assert_eq!(interrupts("/pl011", &[(name, cells)], index), Err(reason), "{name}");
        }
    }

    #[test]
    fn both_gics_are_read() {
        let blob = fixture::virt().to_dtb();
        let tree = Tree::new(&blob).unwrap();
        let range = |start, len| AddrRange::from_len(PhysAddr::new(start), len).unwrap();
        let gic = Gic::read(&tree.find("/intc").unwrap());
        let v3 = Gic::V3 {
            distributor: range(0x800_0000, 0x1_0000),
            redistributors: vec![range(0x80a_0000, 0xf6_0000)],
            its: vec![range(0x808_0000, 0x2_0000)],
        };
        assert_eq!(gic, Some(Ok(v3)));

        let mut model = fixture::virt();
        fixture::make_gic_v2(&mut model);
        let blob = model.to_dtb();
        let gic = Gic::read(&Tree::new(&blob).unwrap().find("/intc").unwrap());
        let v2 =
            Gic::V2 { distributor: range(0x800_0000, 0x1_0000), cpu_interface: range(0x801_0000, 0x1_0000) };
        assert_eq!(gic, Some(Ok(v2)));
    }

    #[test]
    fn a_raspberry_pi_3_has_two_controllers() {
        let mut model = fixture::virt();
        fixture::add_bcm2836(&mut model);
        let blob = model.to_dtb();
        let tree = Tree::new(&blob).unwrap();
        let range = |start, len| AddrRange::from_len(PhysAddr::new(start), len).unwrap();
        let found = InterruptController::read(&tree, &tree.find("/local_intc").unwrap());
        let expected = InterruptController::Bcm2836 {
            local: range(0x4000_0000, 0x100),
            peripherals: range(0x3f00_b200, 0x200),
        };
        assert_eq!(found, Some(Ok(expected)));

        let local = fixture::BCM2836_LOCAL;
        let peripherals = fixture::BCM2836_PERIPHERALS;
        let at = |parent, cells: &[u32], index| {
            interrupts_of(&model, &[("interrupt-parent", &[parent]), ("interrupts", cells)], index)
        };
        let timer = Ok(Interrupt::Bcm2836(InterruptSource::Local(3)));
        assert_eq!(at(local, &[0, 4, 1, 4, 3, 4, 2, 4], 2), timer);
        let uart = Ok(Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 2, number: 25 }));
        assert_eq!(at(peripherals, &[2, 25], 0), uart);
        assert_eq!(at(peripherals, &[3, 25], 0), Err(Reason::BadInterrupt([3, 25, 0])));
        assert_eq!(at(local, &[32, 4], 0), Err(Reason::BadInterrupt([32, 4, 0])));
        assert_eq!(at(local, &[1, 4], 1), Err(Reason::Missing("interrupts")));
    }

    #[test]
    fn missing_redistributors_are_an_error() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/intc").add_property(fixture::cells("#redistributor-regions", &[2]));
        let blob = model.to_dtb();
        let gic = Gic::read(&Tree::new(&blob).unwrap().find("/intc").unwrap());
        assert_eq!(gic, Some(Err(Reason::Malformed("#redistributor-regions"))));
    }
}
