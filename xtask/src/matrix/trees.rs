//! Device trees that are odd, damaged or missing.

use super::bases::refusal;
use super::case::{Case, Start};
use crate::judge::Expect;
use crate::odd_trees;
use crate::wrap::Tree;

/// A device tree with odd nodes: their devices are left out, with a reason, and a program runs all the same.
const fn odd_tree(
    name: &'static str,
    changes: &'static [(&'static str, &'static str)],
    shown: &'static [&'static str],
) -> Case {
    Case { start: Start::PatchedTree(changes), ..refusal(name, "init=/bin/probe -- hello", shown) }
}

/// QEMU's tree with something changed that the format allows.
const fn odd_node(name: &'static str, change: odd_trees::Change, shown: &'static [&'static str]) -> Case {
    Case { start: Start::Bare(Tree::Changed(change)), ..refusal(name, "init=/bin/probe -- hello", shown) }
}

/// The rows.
pub const CASES: &[Case] = &[
    odd_tree(
        "unknown-smmu",
        &[("arm,smmu-v3", "arm,smmu-vX")],
        &["warning: edu 00:01.0: ignored: the IOMMU in front of it", "init: exit status 0"],
    ),
    odd_tree(
        "unknown-gic",
        &[("arm,gic-v3", "arm,gic-vX")],
        &["warning: interrupts: no interrupt controller", "init: exit status 0"],
    ),
    odd_tree(
        "unknown-timer",
        &[("arm,armv8-timer", "arm,armv8-timeX"), ("arm,armv7-timer", "arm,armv7-timeX")],
        &["warning: timer: the device tree names no interrupt", "init: exit status 0"],
    ),
    odd_tree("unknown-pcie", &[("pci-host-ecam-generic", "pci-host-ecam-genXric")], &["init: exit status 0"]),
    odd_tree(
        "no-iommu-map",
        &[("iommu-map", "iommu-maX")],
        &["edu 00:01.0: no IOMMU", "init: exit status 0"],
    ),
    odd_node(
        "tree-overlapping-memory",
        odd_trees::overlapping_memory,
        &["memory: 512 MiB", "init: exit status 0"],
    ),
    odd_node("tree-empty-memory", odd_trees::empty_memory, &["error: the device tree names no memory"]),
    odd_node(
        "tree-endless-memory",
        odd_trees::endless_memory,
        &["warning: /memory@8000000000000000: ignored: ", "init: exit status 0"],
    ),
    odd_node(
        "tree-far-memory",
        odd_trees::far_memory,
        &["warning: memory at 0x400000000000: ignored: no response at ", "init: exit status 0"],
    ),
    odd_node(
        "tree-too-much-memory",
        odd_trees::too_much_memory,
        &[
            "warning: memory at 0x40000000: ignored: no response at ",
            "error: the device tree names no memory",
        ],
    ),
    odd_node(
        "tree-registers-as-memory",
        odd_trees::registers_as_memory,
        &["warning: memory at 0x8000000: ignored: overlaps device registers at ", "init: exit status 0"],
    ),
    odd_node(
        "tree-devices-in-memory",
        odd_trees::devices_in_memory,
        &[
            "warning: memory at 0x0: ignored: overlaps device registers at ",
            "error: the device tree names no memory",
        ],
    ),
    odd_node("tree-reserved-kernel", odd_trees::reserved_kernel, &["ignored: ", "init: exit status 0"]),
    Case {
        expect: Expect::Halt {
            shown: &[
                "error: device tree with 8000 memory reservations exceeds the limit of 1024",
                "; halted",
            ],
        },
        ..odd_node("tree-many-reservations", odd_trees::many_reservations, &[])
    },
    odd_node(
        "tree-odd-address-cells",
        odd_trees::odd_address_cells,
        &["warning: /memory@40000000: ignored: malformed reg", "error: the device tree names no memory"],
    ),
    odd_node("tree-no-size-cells", odd_trees::no_size_cells, &["error: the device tree names no memory"]),
    odd_node(
        "tree-odd-cells-below",
        odd_trees::odd_cells_below,
        &["warning: /pcie@10000000: ignored: malformed interrupt-map", "init: exit status 0"],
    ),
    odd_node(
        "tree-unknown-properties",
        odd_trees::unknown_properties,
        &["edu 00:01.0: stream 0x8", "init: exit status 0"],
    ),
    odd_node("tree-circles", odd_trees::circles, &["ignored: ", "init: exit status 0"]),
    odd_node("tree-one-phandle", odd_trees::one_phandle, &["ignored: ", "init: exit status 0"]),
    odd_node(
        "tree-too-many-cpus",
        odd_trees::too_many_cpus,
        &["ignored: more than 128", "init: exit status 0"],
    ),
    Case {
        start: Start::Bare(Tree::Cut),
        expect: Expect::Halt { shown: &["error: malformed device tree: ", "; halted"] },
        ..refusal("tree-cut", "", &[])
    },
    Case {
        start: Start::Bare(Tree::Damaged),
        expect: Expect::Halt { shown: &["error: ", "device tree", "; halted"] },
        ..refusal("damaged-tree", "", &[])
    },
    Case {
        start: Start::Bare(Tree::None),
        expect: Expect::Halt { shown: &["error: no device tree: x0 = ", "; halted"] },
        ..refusal("no-tree", "", &[])
    },
];
