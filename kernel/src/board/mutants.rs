//! Ten thousand trees with something wrong in them: none panics the reader, and whatever it says is safe to use.

use super::{BootArgs, Platform, Tree, fixture};
use addr::{AddrRange, PhysAddr};
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

const MUTANTS: u64 = 10_000;
/// The numbers that trip arithmetic up, and what the fixtures call their own nodes.
const ODD: [u32; 12] =
    [0, 1, 2, 3, 0xff, 0x7fff_ffff, 0x8000_0000, u32::MAX, fixture::GIC, fixture::SMMU, fixture::ITS, 0x18];

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    fn odd(&mut self) -> u32 {
        ODD[self.below(ODD.len())]
    }
}

fn base(dice: &mut Dice) -> DeviceTree {
    let mut model = fixture::virt();
    match dice.below(4) {
        0 => fixture::make_gic_v2(&mut model),
        1 => fixture::add_bcm2836(&mut model),
        2 => add_reservations(&mut model),
        _ => {}
    }
    model
}

/// Memory that overlaps, that is empty, and that is reserved in the middle of a kernel.
fn add_reservations(model: &mut DeviceTree) {
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

/// A node anywhere below `node`, or itself.
fn any_node<'m>(node: &'m mut DeviceTreeNode, dice: &mut Dice) -> &'m mut DeviceTreeNode {
    let children = node.children().count();
    if children == 0 || dice.below(4) == 0 {
        return node;
    }
    let chosen = dice.below(children);
    match node.children_mut().nth(chosen) {
        Some(child) => any_node(child, dice),
        None => unreachable!("it was counted"),
    }
}

/// Changes one property of one node: a cell, its length, its name's fate.
fn mutate(model: &mut DeviceTree, dice: &mut Dice) {
    let node = any_node(&mut model.root, dice);
    let names: Vec<String> = node.properties().map(|property| property.name().to_owned()).collect();
    let Some(name) = names.get(dice.below(names.len())) else { return };
    let mut value: Vec<u8> =
        node.property(name).and_then(|p| p.value_as::<&[u8]>().ok()).unwrap_or(&[]).to_vec();
    match dice.below(6) {
        0 => {
            node.remove_property(name);
            return;
        }
        1 => value.truncate(dice.below(value.len() + 1)),
        2 => value.extend(std::iter::repeat_n(dice.odd() as u8, 1 + dice.below(9))),
        3 => value.clear(),
        _ if value.len() >= 4 => {
            let at = dice.below(value.len() / 4) * 4;
            value[at..at + 4].copy_from_slice(&dice.odd().to_be_bytes());
        }
        _ => value.push(0),
    }
    node.add_property(fixture::bytes(name, &value));
}

fn damage(blob: &mut Vec<u8>, dice: &mut Dice) {
    match dice.below(4) {
        0 => blob.truncate(dice.below(blob.len() + 1)),
        1 => {
            for _ in 0..1 + dice.below(8) {
                let at = dice.below(blob.len());
                blob[at] = dice.below(256) as u8;
            }
        }
        _ => {}
    }
}

/// What the rest of the kernel takes for granted.
fn check(platform: &Platform) {
    let apart = platform.memory.windows(2).all(|pair| pair[0].end() < pair[1].start());
    assert!(apart && platform.memory.iter().all(|range| !range.is_empty()), "{:x?}", platform.memory);
    if let Some(initrd) = platform.initrd {
        assert!(platform.memory.iter().any(|range| range.covers(&initrd)));
    }
}

#[test]
fn ten_thousand_mutants_are_read_or_refused() {
    let mut dice = Dice(0x7e55_e4a5_0bad_cafe);
    let image = AddrRange::new(PhysAddr::new(0x4020_0000), PhysAddr::new(0x4040_0000));
    let mut read = 0;
    for _ in 0..MUTANTS {
        let mut model = base(&mut dice);
        (0..1 + dice.below(6)).for_each(|_| mutate(&mut model, &mut dice));
        let mut blob = model.to_dtb();
        damage(&mut blob, &mut dice);
        let Ok(mut platform) = Tree::new(&blob).and_then(|tree| Platform::read(&tree)) else { continue };
        platform.check_initrd(image);
        check(&platform);
        let _ = BootArgs::parse(&platform.bootargs);
        read += 1;
    }
    assert!(read > MUTANTS / 4, "only {read} of {MUTANTS} were good enough to be read");
}

#[test]
fn phandles_in_a_circle_end() {
    let mut model = fixture::virt();
    fixture::find(&mut model, "/intc").add_property(fixture::cells("interrupt-parent", &[fixture::SMMU]));
    fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("interrupt-parent", &[fixture::SMMU]));
    let map = fixture::cells("iommu-map", &[0, fixture::GIC, 0, 0x1_0000]);
    fixture::find(&mut model, "/pcie").add_property(map);
    let blob = model.to_dtb();
    let platform = Platform::read(&Tree::new(&blob).unwrap()).unwrap();
    assert_eq!((platform.smmus.len(), platform.warnings.len()), (0, 1));
}
