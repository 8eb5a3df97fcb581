//! Device tree fixture: the parts of the tree of QEMU's `virt` board with GICv3 and SMMUv3 that the kernel
//! reads. Tests modify it.

use dtoolkit::Node;
use dtoolkit::model::{DeviceTree as TreeModel, DeviceTreeNode, DeviceTreeNodeBuilder, DeviceTreeProperty};

pub const CLOCK: u32 = 0x8000;
pub const GIC: u32 = 0x8003;
pub const ITS: u32 = 0x8004;
pub const SMMU: u32 = 0x8005;
pub const BCM2836_LOCAL: u32 = 0x18;
pub const BCM2836_PERIPHERALS: u32 = 1;

pub fn bytes(name: &str, value: &[u8]) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).unwrap()
}

pub fn cells(name: &str, value: &[u32]) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).unwrap()
}

/// A property of one or more zero-separated strings.
pub fn text(name: &str, value: &str) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).unwrap()
}

pub fn node(name: &str) -> DeviceTreeNodeBuilder {
    DeviceTreeNode::builder(name).unwrap()
}

pub fn virt() -> TreeModel {
    let mut tree = TreeModel::new();
    let root = &mut tree.root;
    for property in [
        cells("interrupt-parent", &[GIC]),
        cells("dma-coherent", &[]),
        text("model", "linux,dummy-virt"),
        cells("#size-cells", &[2]),
        cells("#address-cells", &[2]),
        text("compatible", "linux,dummy-virt"),
    ] {
        root.add_property(property);
    }
    let psci = node("psci").property(text("method", "smc"));
    root.add_child(psci.property(text("compatible", "arm,psci-1.0\0arm,psci-0.2\0arm,psci")).build());
    let memory = node("memory@40000000").property(cells("reg", &[0, 0x4000_0000, 0, 0x4000_0000]));
    root.add_child(memory.property(text("device_type", "memory")).build());
    root.add_child(cpus());
    root.add_child(gic());
    root.add_child(smmu());
    root.add_child(pcie());
    root.add_child(uart());
    let timer = node("timer").property(text("compatible", "arm,armv8-timer\0arm,armv7-timer"));
    root.add_child(timer.property(cells("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])).build());
    let clock = node("apb-pclk").property(cells("phandle", &[CLOCK])).property(cells("#clock-cells", &[0]));
    root.add_child(clock.property(text("compatible", "fixed-clock")).build());
    root.add_child(node("aliases").property(text("serial0", "/pl011@9000000")).build());
    root.add_child(node("chosen").property(text("stdout-path", "/pl011@9000000")).build());
    tree
}

fn cpus() -> DeviceTreeNode {
    let cpu = |number: u32| {
        node(&format!("cpu@{number}"))
            .property(cells("reg", &[number]))
            .property(text("device_type", "cpu"))
            .property(text("enable-method", "psci"))
            .build()
    };
    let map = node("cpu-map").child(node("socket0").build()).build();
    let cpus = node("cpus").property(cells("#address-cells", &[1])).property(cells("#size-cells", &[0]));
    cpus.child(map).child(cpu(0)).child(cpu(1)).build()
}

fn gic() -> DeviceTreeNode {
    let its = node("its@8080000")
        .property(cells("phandle", &[ITS]))
        .property(cells("reg", &[0, 0x808_0000, 0, 0x2_0000]))
        .property(cells("msi-controller", &[]))
        .property(text("compatible", "arm,gic-v3-its"));
    node("intc@8000000")
        .property(cells("phandle", &[GIC]))
        .property(cells("interrupts", &[1, 9, 4]))
        .property(cells("reg", &[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0xf6_0000]))
        .property(cells("#redistributor-regions", &[1]))
        .property(text("compatible", "arm,gic-v3"))
        .property(cells("ranges", &[]))
        .property(cells("#size-cells", &[2]))
        .property(cells("#address-cells", &[2]))
        .property(cells("interrupt-controller", &[]))
        .property(cells("#interrupt-cells", &[3]))
        .child(its.build())
        .build()
}

/// Replaces the GICv3 with the board's GICv2.
pub fn make_gic_v2(tree: &mut TreeModel) {
    let node = find(tree, "/intc");
    node.add_property(text("compatible", "arm,cortex-a15-gic"));
    node.add_property(cells("reg", &[0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000]));
}

/// Adds the interrupt controllers of a Raspberry Pi 3, the peripheral one on a bus with the same `ranges`.
pub fn add_bcm2836(tree: &mut TreeModel) {
    let controller = |name: &str, compatible: &str, phandle: u32, reg: &[u32]| {
        node(name)
            .property(text("compatible", compatible))
            .property(cells("phandle", &[phandle]))
            .property(cells("reg", reg))
            .property(cells("interrupt-controller", &[]))
            .property(cells("#interrupt-cells", &[2]))
            .property(cells("interrupt-parent", &[BCM2836_LOCAL]))
    };
    let local = "brcm,bcm2836-l1-intc";
    let local = controller("local_intc@40000000", local, BCM2836_LOCAL, &[0, 0x4000_0000, 0, 0x100]);
    let peripherals = "brcm,bcm2836-armctrl-ic";
    let peripherals =
        controller("interrupt-controller@7e00b200", peripherals, BCM2836_PERIPHERALS, &[0x7e00_b200, 0x200]);
    let soc = node("soc")
        .property(cells("#address-cells", &[1]))
        .property(cells("#size-cells", &[1]))
        .property(cells("ranges", &[0x7e00_0000, 0, 0x3f00_0000, 0x100_0000]))
        .child(peripherals.property(cells("interrupts", &[8, 4])).build());
    tree.root.add_child(local.build());
    tree.root.add_child(soc.build());
}

fn smmu() -> DeviceTreeNode {
    node("smmuv3@9050000")
        .property(cells("phandle", &[SMMU]))
        .property(cells("#iommu-cells", &[1]))
        .property(cells("dma-coherent", &[]))
        .property(text("interrupt-names", "eventq\0priq\0cmdq-sync\0gerror"))
        .property(cells("interrupts", &[0, 74, 1, 0, 75, 1, 0, 76, 1, 0, 77, 1]))
        .property(cells("reg", &[0, 0x905_0000, 0, 0x2_0000]))
        .property(text("compatible", "arm,smmu-v3"))
        .build()
}

fn pcie() -> DeviceTreeNode {
    let mut map = Vec::new();
    for device in 0..4 {
        for pin in 0..4 {
            map.extend([device << 11, 0, 0, pin + 1, GIC, 0, 0, 0, 3 + (device + pin) % 4, 4]);
        }
    }
    let ranges = [
        [0x100_0000, 0, 0, 0, 0x3eff_0000, 0, 0x1_0000],
        [0x200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2eff_0000],
        [0x300_0000, 0x80, 0, 0x80, 0, 0x80, 0],
    ];
    node("pcie@10000000")
        .property(cells("iommu-map", &[0, SMMU, 0, 0x1_0000]))
        .property(cells("interrupt-map-mask", &[0x1800, 0, 0, 7]))
        .property(cells("interrupt-map", &map))
        .property(cells("#interrupt-cells", &[1]))
        .property(cells("ranges", ranges.as_flattened()))
        .property(cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]))
        .property(cells("msi-map", &[0, ITS, 0, 0x1_0000]))
        .property(cells("dma-coherent", &[]))
        .property(cells("bus-range", &[0, 0xff]))
        .property(cells("linux,pci-domain", &[0]))
        .property(cells("#size-cells", &[2]))
        .property(cells("#address-cells", &[3]))
        .property(text("device_type", "pci"))
        .property(text("compatible", "pci-host-ecam-generic"))
        .build()
}

fn uart() -> DeviceTreeNode {
    node("pl011@9000000")
        .property(cells("interrupts", &[0, 1, 4]))
        .property(text("compatible", "arm,pl011\0arm,primecell"))
        .property(cells("reg", &[0, 0x900_0000, 0, 0x1000]))
        .build()
}

/// The node at `path`; unit addresses may be omitted.
pub fn find<'m>(model: &'m mut TreeModel, path: &str) -> &'m mut DeviceTreeNode {
    path.split('/').filter(|name| !name.is_empty()).fold(&mut model.root, |node, name| {
        let matches = |child: &&mut DeviceTreeNode| {
            let full: &str = (**child).name();
            full == name || full.split('@').next() == Some(name)
        };
        node.children_mut().find(matches).unwrap_or_else(|| panic!("no {name} in {path}"))
    })
}

const PI_3: (&[u32], &[u32]) =
    (&[0x7e00_0000, 0, 0x3f00_0000, 0x100_0000], &[0xc000_0000, 0, 0, 0x3f00_0000]);
const PI_4: (&[u32], &[u32]) =
    (&[0x7e00_0000, 0, 0xfe00_0000, 0x180_0000], &[0xc000_0000, 0, 0, 0x4000_0000]);

/// A Raspberry Pi 3 whose firmware leaves the DMA channels in `mask` to the kernel.
pub fn raspberry_pi_3(mask: u32) -> TreeModel {
    raspberry_pi(PI_3, mask)
}

/// The same for a Raspberry Pi 4.
pub fn raspberry_pi_4(mask: u32) -> TreeModel {
    raspberry_pi(PI_4, mask)
}

/// A board with a DMA engine and a mailbox on a bus with these `ranges` and `dma-ranges`.
fn raspberry_pi((ranges, dma_ranges): (&[u32], &[u32]), mask: u32) -> TreeModel {
    let mut model = virt();
    add_bcm2836(&mut model);
    model.root.remove_property("dma-coherent");
    let soc = find(&mut model, "/soc");
    soc.add_property(cells("ranges", ranges));
    soc.add_property(cells("dma-ranges", dma_ranges));
    let names = "dma0\0dma1\0dma2\0dma3\0dma4\0dma5";
    let interrupts: Vec<u32> = (16..22).flat_map(|number| [1, number]).collect();
    let dma = node("dma@7e007000")
        .property(text("compatible", "brcm,bcm2835-dma"))
        .property(cells("reg", &[0x7e00_7000, 0xf00]))
        .property(cells("interrupt-parent", &[BCM2836_PERIPHERALS]))
        .property(cells("interrupts", &interrupts))
        .property(text("interrupt-names", names))
        .property(cells("brcm,dma-channel-mask", &[mask]));
    soc.add_child(dma.build());
    let mailbox = node("mailbox@7e00b880")
        .property(text("compatible", "brcm,bcm2835-mbox"))
        .property(cells("reg", &[0x7e00_b880, 0x40]));
    soc.add_child(mailbox.build());
    model
}

/// Gives the only property called `from` another name, of any length, at the end of the strings, which must
/// be the last block of `blob`.
pub fn rename_property(mut blob: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let word = |blob: &[u8], at: usize| u32::from_be_bytes(*blob[at..].first_chunk().unwrap());
    let [structure, strings, len] = [8, 12, 32].map(|field| word(&blob, field));
    assert_eq!((strings + len) as usize, blob.len(), "the strings are last");
    let name: Vec<u8> = from.bytes().chain([0]).collect();
    let offset = blob[strings as usize..].windows(name.len()).position(|bytes| bytes == name).unwrap();
    let is_property = |at: &usize| word(&blob, *at) == 3 && word(&blob, at + 8) as usize == offset;
    let property = (structure as usize..strings as usize - 8).step_by(4).find(is_property).unwrap();
    blob.extend(to.bytes().chain([0]));
    let total = blob.len() as u32;
    for (at, value) in [(property + 8, len), (4, total), (32, total - strings)] {
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    blob
}
