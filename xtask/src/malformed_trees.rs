//! QEMU's device tree with unusual or inconsistent content that the format allows: the kernel boots, or ends
//! with an error that names the defect, and never panics. Ten thousand random ones are parsed on the host
//! (`kernel/src/board/tests/mutated_trees.rs`).

use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

/// Modifies a tree; `None` if the tree does not have the node or property.
pub type TreeChange = fn(&mut DeviceTree) -> Option<()>;

const MEMORY: &str = "/memory@40000000";
const INTERRUPT_CONTROLLER: &str = "/intc@8000000";
const SMMU: &str = "/smmuv3@9050000";
const PCIE: &str = "/pcie@10000000";
/// The bus of the DMA engine and the mailbox of a Raspberry Pi.
const SOC: &str = "/soc";

/// The image's address in QEMU: a reservation there overlaps the kernel.
const KERNEL: u64 = 0x4020_0000;

/// Overlapping memory nodes, and an empty one.
pub fn overlapping_memory(tree: &mut DeviceTree) -> Option<()> {
    add_memory(tree, 0x5000_0000, 0x1000_0000)?;
    add_memory(tree, 0x4fff_f800, 0x1000_0001)?;
    add_memory(tree, 0x4800_0000, 0)?;
    add_memory(tree, 0, 0)
}

/// An empty memory node as the only one.
pub fn empty_memory(tree: &mut DeviceTree) -> Option<()> {
    set(tree, MEMORY, "reg", &[0, 0x4000_0000, 0, 0])
}

/// A memory node that ends after the last address.
pub fn overflowing_memory(tree: &mut DeviceTree) -> Option<()> {
    add_memory(tree, 1 << 63, u64::MAX)
}

/// A memory node 64 TiB above the rest, without RAM.
pub fn absent_memory(tree: &mut DeviceTree) -> Option<()> {
    add_memory(tree, 64 << 40, 1 << 30)
}

/// A memory node larger than RAM.
pub fn too_much_memory(tree: &mut DeviceTree) -> Option<()> {
    set(tree, MEMORY, "reg", &[0, 0x4000_0000, 0x10, 0])
}

/// A memory node that overlaps device registers.
pub fn memory_over_registers(tree: &mut DeviceTree) -> Option<()> {
    add_memory(tree, 0x0800_0000, 0x0200_0000)
}

/// A single memory node that contains the devices.
pub fn devices_in_memory(tree: &mut DeviceTree) -> Option<()> {
    set(tree, MEMORY, "reg", &[0, 0, 0, 0x6000_0000])
}

/// Reservations inside the kernel, with and without `no-map`, and an empty one.
pub fn reserved_kernel(tree: &mut DeviceTree) -> Option<()> {
    let reserved = |name: &str, at: u64, len: u64| {
        let node = DeviceTreeNode::builder(name).ok()?;
        Some(node.property(property("reg", &[0, at as u32, 0, len as u32])?))
    };
    let parent = DeviceTreeNode::builder("reserved-memory").ok()?;
    let parent = parent.property(property("#address-cells", &[2])?).property(property("#size-cells", &[2])?);
    let parent = parent.property(property("ranges", &[])?);
    let parent = parent.child(reserved("a@40200000", KERNEL, 0x1000)?.build());
    let secret = reserved("b@40210800", KERNEL + 0x1_0800, 0x1_0001)?.property(property("no-map", &[])?);
    tree.root.add_child(parent.child(secret.build()).child(reserved("c@0", 0, 0)?.build()).build());
    tree.memory_reservations.push(MemoryReservation::new(KERNEL + 0x2_0000, 0x10_0000));
    tree.memory_reservations.push(MemoryReservation::new(u64::MAX, u64::MAX));
    Some(())
}

/// As many one-byte reservations as fit into a tree.
pub fn many_reservations(tree: &mut DeviceTree) -> Option<()> {
    let each = (0..8000).map(|n| MemoryReservation::new(0x5000_0000 + n * 0x2000, 1));
    tree.memory_reservations.extend(each);
    Some(())
}

/// `#address-cells` of the root larger than its `reg` properties.
pub fn excess_address_cells(tree: &mut DeviceTree) -> Option<()> {
    set(tree, "/", "#address-cells", &[3])
}

/// `#size-cells` of the root is 0.
pub fn no_size_cells(tree: &mut DeviceTree) -> Option<()> {
    set(tree, "/", "#size-cells", &[0])
}

/// `#address-cells` of the CPUs too large, and of the buses too small.
pub fn child_cells(tree: &mut DeviceTree) -> Option<()> {
    set(tree, "/cpus", "#address-cells", &[4])?;
    set(tree, PCIE, "#address-cells", &[1])?;
    set(tree, INTERRUPT_CONTROLLER, "#interrupt-cells", &[0xffff_ffff])
}

/// Unknown properties in every node, and deeply nested unknown nodes.
pub fn unknown_properties(tree: &mut DeviceTree) -> Option<()> {
    add_everywhere(&mut tree.root)?;
    let deep = (0..60).try_fold(DeviceTreeNode::new("bottom").ok()?, |below, level| {
        let node = DeviceTreeNode::builder(format!("level{level}")).ok()?;
        Some(node.property(property("reg", &[1, 2, 3])?).child(below).build())
    })?;
    tree.root.add_child(deep);
    Some(())
}

/// Cycles of interrupt parents and of IOMMUs.
pub fn cycles(tree: &mut DeviceTree) -> Option<()> {
    let [gic, smmu] = [INTERRUPT_CONTROLLER, SMMU].map(|path| phandle(tree, path));
    let (gic, smmu) = (gic?, smmu?);
    set(tree, INTERRUPT_CONTROLLER, "interrupt-parent", &[smmu])?;
    set(tree, SMMU, "interrupt-parent", &[smmu])?;
    set(tree, SMMU, "iommus", &[smmu, 0])?;
    set(tree, PCIE, "iommu-map", &[0, gic, 0, 0x1_0000])?;
    set(tree, "/", "interrupt-parent", &[smmu])
}

/// The same phandle in every node.
pub fn duplicate_phandles(tree: &mut DeviceTree) -> Option<()> {
    fn all(node: &mut DeviceTreeNode) -> Option<()> {
        node.add_property(property("phandle", &[1])?);
        node.children_mut().try_for_each(all)
    }
    all(&mut tree.root)
}

/// A Raspberry Pi whose bus reaches two parts of memory above 256 MiB, with a gap. The addresses are QEMU's,
/// which does not translate them by this property.
pub fn dma_ranges_with_a_gap(tree: &mut DeviceTree) -> Option<()> {
    let low = [0xd400_0000, 0, 0x1400_0000, 0x0800_0000];
    let high = [0xe000_0000, 0, 0x2000_0000, 0x1000_0000];
    set(tree, SOC, "dma-ranges", &[low, high].concat())
}

/// A Raspberry Pi whose bus reaches 1 GiB from 16 GiB on, where there is no memory.
pub fn dma_ranges_above_memory(tree: &mut DeviceTree) -> Option<()> {
    set(tree, SOC, "dma-ranges", &[0xc000_0000, 4, 0, 0x4000_0000])
}

/// A counter whose reads may return wrong values.
pub fn counter_erratum(tree: &mut DeviceTree) -> Option<()> {
    set(tree, "/timer", "hisilicon,erratum-161010101", &[])
}

/// No PSCI: no CPU start and no power off.
pub fn no_psci(tree: &mut DeviceTree) -> Option<()> {
    tree.root.remove_child("psci").map(drop)
}

/// Two hundred CPUs with the same MPIDR.
pub fn too_many_cpus(tree: &mut DeviceTree) -> Option<()> {
    let first = tree.find_node("/cpus/cpu@0")?.clone();
    let cpus = tree.find_node_mut("/cpus")?;
    for number in 1_u32..200 {
        let mut cpu = DeviceTreeNode::new(format!("cpu@{number:x}")).ok()?;
        first.properties().for_each(|own| cpu.add_property(DeviceTreeProperty::from_property(&own)));
        cpu.add_property(property("reg", &[number % 2])?);
        cpus.add_child(cpu);
    }
    Some(())
}

fn property(name: &str, cells: &[u32]) -> Option<DeviceTreeProperty> {
    DeviceTreeProperty::new(name, cells).ok()
}

fn set(tree: &mut DeviceTree, path: &str, name: &str, cells: &[u32]) -> Option<()> {
    let node = if path == "/" { &mut tree.root } else { tree.find_node_mut(path)? };
    node.add_property(property(name, cells)?);
    Some(())
}

fn phandle(tree: &DeviceTree, path: &str) -> Option<u32> {
    tree.find_node(path)?.property("phandle")?.value_as::<u32>().ok()
}

fn add_memory(tree: &mut DeviceTree, start: u64, len: u64) -> Option<()> {
    let cells = [(start >> 32) as u32, start as u32, (len >> 32) as u32, len as u32];
    let node = DeviceTreeNode::builder(format!("memory@{start:x}")).ok()?;
    let kind = DeviceTreeProperty::new("device_type", "memory").ok()?;
    tree.root.add_child(node.property(kind).property(property("reg", &cells)?).build());
    Some(())
}

fn add_everywhere(node: &mut DeviceTreeNode) -> Option<()> {
    node.add_property(property("vendor,magic", &[0xdead_beef; 7])?);
    node.add_property(DeviceTreeProperty::new("x", "no such thing").ok()?);
    node.children_mut().try_for_each(add_everywhere)
}
