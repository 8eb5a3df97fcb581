//! Ten thousand randomly mutated device trees: none causes a panic, and every result satisfies the kernel's
//! assumptions.

use super::fixture;
use crate::board::{BootArgs, DeviceTree, Platform};
use addr::{AddrRange, PhysAddr};
use dtoolkit::model::{DeviceTree as TreeModel, DeviceTreeNode};
use dtoolkit::{Node, Property};

const DRIVERS: &[&str] = &["brcm,bcm2835-dma", "brcm,bcm2835-mbox"];
const TREES: u64 = 10_000;
/// Boundary values, and the phandles of the fixture.
const SPECIAL_CELLS: [u32; 12] =
    [0, 1, 2, 3, 0xff, 0x7fff_ffff, 0x8000_0000, u32::MAX, fixture::GIC, fixture::SMMU, fixture::ITS, 0x18];

/// A reproducible pseudo-random generator (Marsaglia's xorshift).
struct XorShift(u64);

impl XorShift {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn special_cell(&mut self) -> u32 {
        SPECIAL_CELLS[self.below(SPECIAL_CELLS.len())]
    }
}

fn base(random: &mut XorShift) -> TreeModel {
    let mut model = fixture::virt();
    match random.below(4) {
        0 => fixture::make_gic_v2(&mut model),
        1 => model = fixture::raspberry_pi_3(0x7f34),
        2 => add_reservations(&mut model),
        _ => {}
    }
    model
}

/// Adds overlapping and empty memory ranges, a reservation inside the kernel image, an initramfs and boot
/// arguments.
fn add_reservations(model: &mut TreeModel) {
    let memory = |name: &str, reg: &[u32]| {
        let node = fixture::node(name).property(fixture::text("device_type", "memory"));
        node.property(fixture::cells("reg", reg)).build()
    };
    model.root.add_child(memory("memory@60000000", &[0, 0x6000_0000, 0, 0x4000_0000, 0, 0, 0, 0]));
    let parent = fixture::node("reserved-memory")
        .property(fixture::cells("#address-cells", &[2]))
        .property(fixture::cells("#size-cells", &[2]))
        .property(fixture::cells("ranges", &[]));
    let inside = fixture::node("a@40200000").property(fixture::cells("reg", &[0, 0x4020_0000, 0, 0x1000]));
    model.root.add_child(parent.child(inside.build()).build());
    let chosen = fixture::find(model, "/chosen");
    chosen.add_property(fixture::cells("linux,initrd-start", &[0x4800_0000]));
    chosen.add_property(fixture::cells("linux,initrd-end", &[0x4900_0000]));
    chosen.add_property(fixture::text("bootargs", "selftest lowmem=256M -- x"));
}

/// `node` or a random descendant.
fn any_node<'m>(node: &'m mut DeviceTreeNode, random: &mut XorShift) -> &'m mut DeviceTreeNode {
    let children = node.children().count();
    if children == 0 || random.below(4) == 0 {
        return node;
    }
    let chosen = random.below(children);
    match node.children_mut().nth(chosen) {
        Some(child) => any_node(child, random),
        None => unreachable!("the index is below the number of children"),
    }
}

/// Changes, resizes or removes one property of one node.
fn mutate(model: &mut TreeModel, random: &mut XorShift) {
    let node = any_node(&mut model.root, random);
    let names: Vec<String> = node.properties().map(|property| property.name().to_owned()).collect();
    let Some(name) = names.get(random.below(names.len())) else { return };
    let mut value: Vec<u8> =
        node.property(name).and_then(|p| p.value_as::<&[u8]>().ok()).unwrap_or(&[]).to_vec();
    match random.below(6) {
        0 => {
            node.remove_property(name);
            return;
        }
        1 => value.truncate(random.below(value.len() + 1)),
        2 => value.extend(std::iter::repeat_n(random.special_cell() as u8, 1 + random.below(9))),
        3 => value.clear(),
        _ if value.len() >= 4 => {
            let at = random.below(value.len() / 4) * 4;
            value[at..at + 4].copy_from_slice(&random.special_cell().to_be_bytes());
        }
        _ => value.push(0),
    }
    node.add_property(fixture::bytes(name, &value));
}

fn corrupt(blob: &mut Vec<u8>, random: &mut XorShift) {
    match random.below(4) {
        0 => blob.truncate(random.below(blob.len() + 1)),
        1 => {
            for _ in 0..1 + random.below(8) {
                let at = random.below(blob.len());
                blob[at] = random.below(256) as u8;
            }
        }
        _ => {}
    }
}

/// The guarantees of a [`Platform`] that the kernel relies on.
fn check_guarantees(platform: &Platform) {
    let disjoint = platform.memory.windows(2).all(|pair| pair[0].end() < pair[1].start());
    assert!(disjoint && platform.memory.iter().all(|range| !range.is_empty()), "{:x?}", platform.memory);
    if let Some(initrd) = platform.initrd {
        assert!(platform.memory.iter().any(|range| range.covers(&initrd)));
    }
}

#[test]
fn mutated_trees_are_read_safely_or_rejected() {
    let mut random = XorShift(0x7e55_e4a5_0bad_cafe);
    let image = AddrRange::new(PhysAddr::new(0x4020_0000), PhysAddr::new(0x4040_0000));
    let mut read = 0;
    for _ in 0..TREES {
        let mut model = base(&mut random);
        (0..1 + random.below(6)).for_each(|_| mutate(&mut model, &mut random));
        let mut blob = model.to_dtb();
        corrupt(&mut blob, &mut random);
        let Ok(mut platform) = DeviceTree::new(&blob).and_then(|tree| Platform::read(&tree, DRIVERS)) else {
            continue;
        };
        platform.check_initrd(image);
        check_guarantees(&platform);
        let _ = platform.bootargs.as_deref().map(BootArgs::parse);
        read += 1;
    }
    assert!(read > TREES / 4, "only {read} of {TREES} trees were accepted");
}

#[test]
fn circular_phandles_terminate() {
    let mut model = fixture::virt();
    fixture::find(&mut model, "/intc").add_property(fixture::cells("interrupt-parent", &[fixture::SMMU]));
    fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("interrupt-parent", &[fixture::SMMU]));
    let map = fixture::cells("iommu-map", &[0, fixture::GIC, 0, 0x1_0000]);
    fixture::find(&mut model, "/pcie").add_property(map);
    let blob = model.to_dtb();
    let platform = Platform::read(&DeviceTree::new(&blob).unwrap(), &[]).unwrap();
    assert_eq!((platform.smmus.len(), platform.warnings.len()), (0, 1));
}
