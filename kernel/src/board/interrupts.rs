//! The interrupt controller and interrupt specifiers.

use super::node::Cells;
use super::translation::checked_registers;
use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use alloc::vec;
use alloc::vec::Vec;
use drivers::bcm2836::InterruptSource;
use drivers::gic::its::ItsIntegration;
use drivers::gic::{GicInterrupt, IntId, Trigger};
use drivers::interrupts::Interrupt;
use drivers::pcie::Phandle;

const GIC_V2: [&str; 5] =
    ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,cortex-a9-gic", "arm,gic-v2"];
const GIC_V3: [&str; 1] = ["arm,gic-v3"];
const GIC_V3_ITS: [&str; 1] = ["arm,gic-v3-its"];
const GIC_V2M: [&str; 1] = ["arm,gic-v2m-frame"];
/// The messages of a SynQuacer pass through another address than the doorbell's.
const PRE_ITS: &str = "socionext,synquacer-pre-its";
/// Machines whose GIC reaches the first 4 GiB only, and machines whose GIC does not snoop although its
/// registers say so (Rockchip errata 3568002 and 3588001, Renesas R-Car Gen4).
const GIC_BELOW_4_GIB: [&str; 5] =
    ["rockchip,rk3566", "rockchip,rk3568", "renesas,r8a779f0", "renesas,r8a779g0", "renesas,r8a779h0"];
const GIC_NON_COHERENT: [&str; 2] = ["rockchip,rk3588", "rockchip,rk3588s"];
const BCM2836_LOCAL: [&str; 1] = ["brcm,bcm2836-l1-intc"];
const BCM2836_PERIPHERALS: [&str; 1] = ["brcm,bcm2836-armctrl-ic"];

/// The maximum number of SPIs of a GIC.
const SPIS: u32 = IntId::MAX_SPI_COUNT;
/// The maximum number of ITSs or message frames, so that they fit in the early heap.
const MAX_MESSAGE_CONTROLLERS: usize = 16;

/// The machine's interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InterruptController {
    Gic(GicDescription),
    /// The two controllers of a Raspberry Pi 3.
    Bcm2836 {
        /// The registers of the CPU-local controller.
        local: AddrRange<PhysAddr>,
        /// The registers of the peripheral controller, which is an input of the local one.
        peripherals: AddrRange<PhysAddr>,
    },
}

impl InterruptController {
    /// The controller at `node`; `None` if the node is not a controller, or only a part of one.
    pub(super) fn read(tree: &DeviceTree<'_>, node: &TreeNode<'_>) -> Option<Result<Self, NodeError>> {
        if node.is_compatible(&BCM2836_LOCAL) {
            // A Raspberry Pi 4 has the local controller too, but its devices are connected to a GIC.
            let peripherals = tree.compatible(&BCM2836_PERIPHERALS).next()?;
            return Some(Self::read_bcm2836(node, &peripherals));
        }
        GicDescription::read(tree, node).map(|gic| gic.map(Self::Gic))
    }

    /// The register ranges.
    pub(super) fn registers(&self) -> Vec<AddrRange<PhysAddr>> {
        match self {
            Self::Gic(GicDescription::V2 { distributor, cpu_interface, frames }) => {
                let frames = frames.iter().map(|frame| frame.registers);
                [*distributor, *cpu_interface].into_iter().chain(frames).collect()
            }
            Self::Gic(GicDescription::V3 { distributor, redistributors, its }) => {
                let its = its.iter().map(|its| its.registers);
                [*distributor].into_iter().chain(redistributors.iter().copied()).chain(its).collect()
            }
            Self::Bcm2836 { local, peripherals } => vec![*local, *peripherals],
        }
    }

    fn read_bcm2836(local: &TreeNode<'_>, peripherals: &TreeNode<'_>) -> Result<Self, NodeError> {
        Ok(Self::Bcm2836 { local: local.reg(0)?, peripherals: peripherals.reg(0)? })
    }
}

/// The registers of a GIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GicDescription {
    /// GICv2.
    V2 {
        /// GICD.
        distributor: AddrRange<PhysAddr>,
        /// GICC, banked: at the same address on each CPU.
        cpu_interface: AddrRange<PhysAddr>,
        /// The message frames (GICv2m).
        frames: Vec<V2mDescription>,
    },
    /// GICv3 and GICv4; the CPU interface consists of system registers.
    V3 {
        /// GICD.
        distributor: AddrRange<PhysAddr>,
        /// GICR: regions with the redistributors of several CPUs each.
        redistributors: Vec<AddrRange<PhysAddr>>,
        /// The interrupt translation services (ITS).
        its: Vec<ItsDescription>,
    },
}

/// An interrupt translation service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ItsDescription {
    /// The phandle, to which an `msi-map` refers.
    pub phandle: Option<Phandle>,
    /// Both frames.
    pub registers: AddrRange<PhysAddr>,
    /// Deviations of the machine.
    pub integration: ItsIntegration,
}

/// A message frame of a GICv2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V2mDescription {
    /// The phandle, to which an `msi-map` refers.
    pub phandle: Option<Phandle>,
    /// The registers.
    pub registers: AddrRange<PhysAddr>,
    /// The first INTID and the number of SPIs, if the register is wrong.
    pub range: Option<(u32, u32)>,
    /// The SPIs of all devices in the tree, which are not for messages.
    pub wired: Vec<IntId>,
}

impl GicDescription {
    /// The GIC at `node`; `None` if the node is not a GIC.
    pub(super) fn read(tree: &DeviceTree<'_>, node: &TreeNode<'_>) -> Option<Result<Self, NodeError>> {
        if node.is_compatible(&GIC_V3) {
            Some(Self::read_v3(tree, node))
        } else if node.is_compatible(&GIC_V2) {
            Some(Self::read_v2(tree, node))
        } else {
            None
        }
    }

    fn read_v2(tree: &DeviceTree<'_>, node: &TreeNode<'_>) -> Result<Self, NodeError> {
        let frames = node.children().filter(|child| child.is_compatible(&GIC_V2M) && child.is_enabled());
        let frames = frames.filter_map(|frame| {
            let cell = |name| frame.cell(name);
            Some(V2mDescription {
                phandle: frame.phandle(),
                registers: frame.reg(0).ok()?,
                range: cell("arm,msi-base-spi").zip(cell("arm,msi-num-spis")),
                wired: tree.wired_spis(),
            })
        });
        Ok(Self::V2 {
            distributor: node.reg(0)?,
            cpu_interface: node.reg(1)?,
            frames: frames.take(MAX_MESSAGE_CONTROLLERS).collect(),
        })
    }

    fn read_v3(tree: &DeviceTree<'_>, node: &TreeNode<'_>) -> Result<Self, NodeError> {
        let regions = node.cell("#redistributor-regions").unwrap_or(1).max(1) as usize;
        let redistributors = node.regs()?.skip(1).take(regions);
        let redistributors =
            redistributors.map(|region| region.and_then(checked_registers)).collect::<Result<Vec<_>, _>>()?;
        if redistributors.len() != regions {
            return Err(NodeError::Malformed("#redistributor-regions"));
        }
        let root = tree.root();
        let integration = |its: &TreeNode<'_>| ItsIntegration {
            non_coherent: root.is_compatible(&GIC_NON_COHERENT)
                || its.property("dma-noncoherent").is_some()
                || node.property("dma-noncoherent").is_some(),
            below_4_gib: root.is_compatible(&GIC_BELOW_4_GIB),
        };
        let its = node.children().filter(|child| child.is_compatible(&GIC_V3_ITS) && child.is_enabled());
        let its = its.filter(|its| its.property(PRE_ITS).is_none()).filter_map(|its| {
            let (phandle, integration) = (its.phandle(), integration(&its));
            Some(ItsDescription { phandle, registers: its.reg(0).ok()?, integration })
        });
        let its = its.take(MAX_MESSAGE_CONTROLLERS).collect();
        Ok(Self::V3 { distributor: node.reg(0)?, redistributors, its })
    }
}

impl<'a> DeviceTree<'a> {
    /// Interrupt `index` of `node`.
    pub fn interrupt(&self, node: &TreeNode<'a>, index: usize) -> Result<Interrupt, NodeError> {
        if let Some(cells) = node.cells("interrupts-extended") {
            return self.extended_interrupt(cells, index);
        }
        node.property("interrupts").ok_or(NodeError::Missing("interrupts"))?;
        let cells = node.cells("interrupts").ok_or(NodeError::Malformed("interrupts"))?;
        let parent = node.ancestors().find_map(|node| node.cell("interrupt-parent"));
        let parent =
            self.interrupt_controller(Phandle(parent.ok_or(NodeError::Missing("interrupt-parent"))?))?;
        interrupt_at(cells, index, &parent)
    }

    /// The interrupt of `node` with this name in `interrupt-names`; `None` if there is none.
    pub fn interrupt_named(&self, node: &TreeNode<'a>, name: &str) -> Option<Result<Interrupt, NodeError>> {
        let index = node.strings("interrupt-names").position(|own| own == name)?;
        Some(self.interrupt(node, index))
    }

    fn extended_interrupt(&self, mut cells: Cells<'a>, index: usize) -> Result<Interrupt, NodeError> {
        const NAME: &str = "interrupts-extended";
        for _ in 0..index {
            let parent = Phandle(cells.next().ok_or(NodeError::Missing(NAME))?);
            let parent = self.by_phandle(parent).ok_or(NodeError::DanglingPhandle(parent))?;
            cells.split(parent.interrupt_cells()).ok_or(NodeError::Malformed(NAME))?;
        }
        let parent = self.interrupt_controller(Phandle(cells.next().ok_or(NodeError::Missing(NAME))?))?;
        interrupt_at(cells, 0, &parent)
    }

    /// The SPIs in `interrupts` of all devices, each once.
    fn wired_spis(&self) -> Vec<IntId> {
        let mut wired = Vec::new();
        for node in self.nodes().filter(TreeNode::is_enabled) {
            let interrupts = (0..SPIS as usize).map_while(|index| self.interrupt(&node, index).ok());
            for interrupt in interrupts {
                match interrupt {
                    Interrupt::Gic(GicInterrupt { id, .. }) if id.is_spi() && !wired.contains(&id) => {
                        wired.push(id);
                    }
                    _ => {}
                }
            }
        }
        wired
    }

    /// The supported interrupt controller with this phandle.
    fn interrupt_controller(&self, phandle: Phandle) -> Result<TreeNode<'a>, NodeError> {
        let node = self.by_phandle(phandle).ok_or(NodeError::DanglingPhandle(phandle))?;
        let is_known = [&GIC_V3[..], &GIC_V2, &BCM2836_LOCAL, &BCM2836_PERIPHERALS]
            .into_iter()
            .any(|names| node.is_compatible(names));
        if is_known { Ok(node) } else { Err(NodeError::UnsupportedController) }
    }

    /// The GIC with this phandle.
    pub(super) fn gic_node(&self, phandle: Phandle) -> Result<TreeNode<'a>, NodeError> {
        let node = self.by_phandle(phandle).ok_or(NodeError::DanglingPhandle(phandle))?;
        let is_gic = node.is_compatible(&GIC_V3) || node.is_compatible(&GIC_V2);
        if is_gic { Ok(node) } else { Err(NodeError::UnsupportedController) }
    }
}

impl TreeNode<'_> {
    /// The `#interrupt-cells` of this controller.
    pub(super) fn interrupt_cells(&self) -> usize {
        self.cell("#interrupt-cells").unwrap_or(1) as usize
    }
}

/// The specifier `index` in `cells`, decoded for the controller `parent`.
fn interrupt_at(mut cells: Cells<'_>, index: usize, parent: &TreeNode<'_>) -> Result<Interrupt, NodeError> {
    let is_bcm2836_local = parent.is_compatible(&BCM2836_LOCAL);
    let is_bcm2836 = is_bcm2836_local || parent.is_compatible(&BCM2836_PERIPHERALS);
    let width = parent.interrupt_cells();
    if (is_bcm2836 && width != 2) || (!is_bcm2836 && width < 3) {
        return Err(NodeError::Malformed("#interrupt-cells"));
    }
    let skipped = index.checked_mul(width).and_then(|skip| cells.split(skip));
    skipped.ok_or(NodeError::Missing("interrupts"))?;
    let mut specifier = cells.split(width).ok_or(NodeError::Missing("interrupts"))?;
    match is_bcm2836 {
        true => decode_bcm2836(&mut specifier, is_bcm2836_local),
        false => decode_gic(&mut specifier).map(Interrupt::Gic),
    }
}

/// Decodes two cells: number and flags for the local controller, bank and number for the peripheral
/// controller. All interrupts are level-sensitive.
fn decode_bcm2836(cells: &mut Cells<'_>, local: bool) -> Result<Interrupt, NodeError> {
    let mut next = || cells.next().ok_or(NodeError::Malformed("interrupts"));
    let [first, second] = [next()?, next()?];
    let source = match local {
        true => InterruptSource::Local(first),
        false => InterruptSource::Peripheral { bank: first, number: second },
    };
    let exists = if local { first < 32 } else { first < 3 && second < 32 };
    if exists { Ok(Interrupt::Bcm2836(source)) } else { Err(NodeError::InvalidInterrupt([first, second, 0])) }
}

/// Decodes a GIC's three or more cells: type, number, flags; further cells (partitioned PPIs) are ignored.
pub(super) fn decode_gic(cells: &mut Cells<'_>) -> Result<GicInterrupt, NodeError> {
    let mut next = || cells.next().ok_or(NodeError::Malformed("interrupts"));
    let raw @ [kind, number, flags] = [next()?, next()?, next()?];
    let id = match kind {
        0 if number < SPIS => IntId::spi(number),
        1 if number < IntId::PPI_COUNT => IntId::ppi(number),
        2 if number < IntId::MAX_ESPI_COUNT => IntId::espi(number),
        3 if number < IntId::MAX_EPPI_COUNT => IntId::eppi(number),
        _ => return Err(NodeError::InvalidInterrupt(raw)),
    };
    // Bits 8 and up are the CPU mask of a GICv2 PPI.
    let trigger = match flags & 0xf {
        1 | 2 => Trigger::Edge,
        4 | 8 => Trigger::Level,
        _ => return Err(NodeError::InvalidInterrupt(raw)),
    };
    Ok(GicInterrupt { id, trigger })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use addr::PhysAddr;
    use dtoolkit::model::DeviceTree as TreeModel;

    /// Interrupt `index` of the node at `path` in the virt board's tree with these properties changed.
    fn interrupt_of(path: &str, change: &[(&str, &[u32])], index: usize) -> Result<Interrupt, NodeError> {
        interrupt_in(fixture::virt(), path, change, index)
    }

    fn interrupt_in(
        mut model: TreeModel,
        path: &str,
        change: &[(&str, &[u32])],
        index: usize,
    ) -> Result<Interrupt, NodeError> {
        let node = fixture::find(&mut model, path);
        for (name, cells) in change {
            node.add_property(fixture::cells(name, cells));
        }
        let blob = model.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        tree.interrupt(&tree.find(path).unwrap(), index)
    }

    #[test]
    fn specifiers_are_decoded_by_interrupt_type() {
        let edge = |id| Ok(GicInterrupt { id, trigger: Trigger::Edge }.into());
        let level = |id| Ok(GicInterrupt { id, trigger: Trigger::Level }.into());
        assert_eq!(interrupt_of("/smmuv3", &[], 3), edge(IntId::spi(77)));
        assert_eq!(interrupt_of("/timer", &[], 2), level(IntId::ppi(11)));
        assert_eq!(interrupt_of("/pl011", &[], 0), level(IntId::spi(1)));
        assert_eq!(interrupt_of("/pl011", &[("interrupts", &[1, 7, 0xf08])], 0), level(IntId::ppi(7)));
        assert_eq!(interrupt_of("/pl011", &[("interrupts", &[2, 1023, 1])], 0), edge(IntId::espi(1023)));
        assert_eq!(interrupt_of("/pl011", &[("interrupts", &[3, 63, 2])], 0), edge(IntId::eppi(63)));
        let extended = &[fixture::CLOCK, 7, fixture::GIC, 0, 9, 1][..];
        assert_eq!(interrupt_of("/pl011", &[("interrupts-extended", extended)], 1), edge(IntId::spi(9)));
    }

    #[test]
    fn invalid_specifiers_are_rejected() {
        for cells in [[0, 988, 4], [1, 16, 4], [2, 1024, 4], [3, 64, 4], [4, 0, 4], [0, 1, 0], [0, 1, 3]] {
            assert_eq!(
                interrupt_of("/pl011", &[("interrupts", &cells)], 0),
                Err(NodeError::InvalidInterrupt(cells))
            );
        }
        let cases: [(&str, &[u32], usize, NodeError); 5] = [
            ("interrupts", &[0, 1], 0, NodeError::Missing("interrupts")),
            ("interrupts", &[0, 1, 4], 1, NodeError::Missing("interrupts")),
            ("interrupts", &[0, 1, 4], usize::MAX, NodeError::Missing("interrupts")),
            ("interrupt-parent", &[0x1234], 0, NodeError::DanglingPhandle(Phandle(0x1234))),
            ("interrupt-parent", &[fixture::SMMU], 0, NodeError::UnsupportedController),
        ];
        for (name, cells, index, error) in cases {
            assert_eq!(interrupt_of("/pl011", &[(name, cells)], index), Err(error), "{name}");
        }
    }

    #[test]
    fn gic_v2_and_v3_registers_are_read() {
        let range = |start, len| AddrRange::from_len(PhysAddr::new(start), len).unwrap();
        let read = |model: &TreeModel| {
            let blob = model.to_dtb();
            let tree = DeviceTree::new(&blob).unwrap();
            GicDescription::read(&tree, &tree.find("/intc").unwrap())
        };
        let v3 = |integration| GicDescription::V3 {
            distributor: range(0x800_0000, 0x1_0000),
            redistributors: vec![range(0x80a_0000, 0xf6_0000)],
            its: vec![ItsDescription {
                phandle: Some(Phandle(fixture::ITS)),
                registers: range(0x808_0000, 0x2_0000),
                integration,
            }],
        };
        let mut model = fixture::virt();
        assert_eq!(read(&model), Some(Ok(v3(ItsIntegration::default()))));
        model.root.add_property(fixture::text("compatible", "radxa,rock-5b\0rockchip,rk3588"));
        assert_eq!(read(&model), Some(Ok(v3(ItsIntegration { non_coherent: true, below_4_gib: false }))));
        model.root.add_property(fixture::text("compatible", "rockchip,rk3568"));
        fixture::find(&mut model, "/intc/its").add_property(fixture::cells("dma-noncoherent", &[]));
        assert_eq!(read(&model), Some(Ok(v3(ItsIntegration { non_coherent: true, below_4_gib: true }))));
        fixture::find(&mut model, "/intc/its").add_property(fixture::cells(PRE_ITS, &[0, 0x5800_0000]));
        assert!(matches!(read(&model), Some(Ok(GicDescription::V3 { its, .. })) if its.is_empty()));

        let mut model = fixture::virt();
        fixture::make_gic_v2(&mut model);
        let v2 = |frames| GicDescription::V2 {
            distributor: range(0x800_0000, 0x1_0000),
            cpu_interface: range(0x801_0000, 0x1_0000),
            frames,
        };
        assert_eq!(read(&model), Some(Ok(v2(vec![]))));
        let frame = fixture::node("v2m@8020000")
            .property(fixture::text("compatible", "arm,gic-v2m-frame"))
            .property(fixture::cells("phandle", &[0x99]))
            .property(fixture::cells("arm,msi-base-spi", &[80]))
            .property(fixture::cells("arm,msi-num-spis", &[64]))
            .property(fixture::cells("reg", &[0, 0x802_0000, 0, 0x1000]));
        fixture::find(&mut model, "/intc").add_child(frame.build());
        let frame = V2mDescription {
            phandle: Some(Phandle(0x99)),
            registers: range(0x802_0000, 0x1000),
            range: Some((80, 64)),
            wired: [74, 75, 76, 77, 1].map(IntId::spi).into(),
        };
        assert_eq!(read(&model), Some(Ok(v2(vec![frame]))));
    }

    #[test]
    fn raspberry_pi_3_controllers_are_read_and_decoded() {
        let mut model = fixture::virt();
        fixture::add_bcm2836(&mut model);
        let blob = model.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
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
            interrupt_in(
                model.clone(),
                "/pl011",
                &[("interrupt-parent", &[parent]), ("interrupts", cells)],
                index,
            )
        };
        let timer = Ok(Interrupt::Bcm2836(InterruptSource::Local(3)));
        assert_eq!(at(local, &[0, 4, 1, 4, 3, 4, 2, 4], 2), timer);
        let uart = Ok(Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 2, number: 25 }));
        assert_eq!(at(peripherals, &[2, 25], 0), uart);
        assert_eq!(at(peripherals, &[3, 25], 0), Err(NodeError::InvalidInterrupt([3, 25, 0])));
        assert_eq!(at(local, &[32, 4], 0), Err(NodeError::InvalidInterrupt([32, 4, 0])));
        assert_eq!(at(local, &[1, 4], 1), Err(NodeError::Missing("interrupts")));
    }

    #[test]
    fn missing_redistributor_region_is_an_error() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/intc").add_property(fixture::cells("#redistributor-regions", &[2]));
        let blob = model.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        let gic = GicDescription::read(&tree, &tree.find("/intc").unwrap());
        assert_eq!(gic, Some(Err(NodeError::Malformed("#redistributor-regions"))));
    }
}
