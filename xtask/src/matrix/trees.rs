//! Device trees with unusual, malformed or missing content.

use super::bases::{PANIC, error_boot, raspberry_pi};
use super::case::{BootMethod, Case};
use crate::el3_wrapper::TreeSource;
use crate::expectation::ConsoleExpectation;
use crate::malformed_trees;

/// A device tree with unsupported nodes: their devices are ignored with a reason, and a program runs.
const fn patched_tree(
    name: &'static str,
    changes: &'static [(&'static str, &'static str)],
    shown: &'static [&'static str],
) -> Case {
    Case { start: BootMethod::PatchedTree(changes), ..error_boot(name, "init=/bin/probe -- hello", shown) }
}

/// QEMU's tree with a change that the format allows.
const fn malformed_tree(
    name: &'static str,
    change: malformed_trees::TreeChange,
    shown: &'static [&'static str],
) -> Case {
    Case {
        start: BootMethod::El3(TreeSource::Modified(change)),
        ..error_boot(name, "init=/bin/probe -- hello", shown)
    }
}

/// A Raspberry Pi 4 with other `dma-ranges`, on which a program copies by the DMA engine.
const fn dma_ranges(
    name: &'static str,
    change: malformed_trees::TreeChange,
    shown: &'static [&'static str],
) -> Case {
    Case {
        start: BootMethod::ModifiedBoardTree(change),
        append: "lowmem=256M init=/bin/probe -- edu-copy",
        expect: ConsoleExpectation::PowerOff { shown, never: &[PANIC] },
        limit: 60,
        ..raspberry_pi(name, "raspi4b")
    }
}

/// The rows.
pub const CASES: &[Case] = &[
    patched_tree(
        "unknown-smmu",
        &[("arm,smmu-v3", "arm,smmu-vX")],
        &["warning: edu 00:01.0: ignored: its IOMMU (phandle ", "init: exit status 0"],
    ),
    patched_tree(
        "unknown-gic",
        &[("arm,gic-v3", "arm,gic-vX")],
        &["warning: interrupts: no interrupt controller", "init: exit status 0"],
    ),
    patched_tree(
        "unknown-timer",
        &[("arm,armv8-timer", "arm,armv8-timeX"), ("arm,armv7-timer", "arm,armv7-timeX")],
        &["warning: timer: no interrupt in the device tree", "init: exit status 0"],
    ),
    patched_tree(
        "unknown-pcie",
        &[("pci-host-ecam-generic", "pci-host-ecam-genXric")],
        &["init: exit status 0"],
    ),
    patched_tree(
        "no-iommu-map",
        &[("iommu-map", "iommu-maX")],
        &["edu 00:01.0: no IOMMU", "init: exit status 0"],
    ),
    dma_ranges(
        "raspi4b-dma-ranges-with-gap",
        malformed_trees::dma_ranges_with_a_gap,
        &["firmware ", "bcm2835-dma channel ", "probe: edu-copy: PASS", "init: exit status 0"],
    ),
    dma_ranges(
        "raspi4b-dma-ranges-above-memory",
        malformed_trees::dma_ranges_above_memory,
        &[
            "bcm2835-dma /soc/dma@7e007000: ignored: memory 0x0..0x3c000000 is outside the windows of dma-ranges",
        ],
    ),
    malformed_tree(
        "tree-overlapping-memory",
        malformed_trees::overlapping_memory,
        &["memory: 512 MiB", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-empty-memory",
        malformed_trees::empty_memory,
        &["error: the device tree describes no memory"],
    ),
    malformed_tree(
        "tree-overflowing-memory",
        malformed_trees::overflowing_memory,
        &["warning: /memory@8000000000000000: ignored: ", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-absent-memory",
        malformed_trees::absent_memory,
        &["warning: memory at 0x400000000000: ignored: no response at ", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-too-much-memory",
        malformed_trees::too_much_memory,
        &[
            "warning: memory at 0x40000000: ignored: no response at ",
            "error: the device tree describes no memory",
        ],
    ),
    malformed_tree(
        "tree-memory-over-registers",
        malformed_trees::memory_over_registers,
        &["warning: memory at 0x8000000: ignored: overlaps device registers at ", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-devices-in-memory",
        malformed_trees::devices_in_memory,
        &[
            "warning: memory at 0x0: ignored: overlaps device registers at ",
            "error: the device tree describes no memory",
        ],
    ),
    malformed_tree(
        "tree-reserved-kernel",
        malformed_trees::reserved_kernel,
        &["ignored: ", "init: exit status 0"],
    ),
    Case {
        expect: ConsoleExpectation::Halt {
            shown: &[
                "error: device tree with 8000 memory reservations exceeds the limit of 1024",
                "; halted",
            ],
        },
        ..malformed_tree("tree-many-reservations", malformed_trees::many_reservations, &[])
    },
    malformed_tree(
        "tree-excess-address-cells",
        malformed_trees::excess_address_cells,
        &["warning: /memory@40000000: ignored: malformed reg", "error: the device tree describes no memory"],
    ),
    malformed_tree(
        "tree-no-size-cells",
        malformed_trees::no_size_cells,
        &["error: the device tree describes no memory"],
    ),
    malformed_tree(
        "tree-child-cells",
        malformed_trees::child_cells,
        &["warning: /pcie@10000000: ignored: malformed interrupt-map", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-unknown-properties",
        malformed_trees::unknown_properties,
        &["edu 00:01.0: stream 0x8", "init: exit status 0"],
    ),
    malformed_tree("tree-cycles", malformed_trees::cycles, &["ignored: ", "init: exit status 0"]),
    malformed_tree(
        "tree-duplicate-phandles",
        malformed_trees::duplicate_phandles,
        &["ignored: ", "init: exit status 0"],
    ),
    malformed_tree(
        "tree-counter-erratum",
        malformed_trees::counter_erratum,
        &["error: timer: HiSilicon Hip05 to Hip07, erratum 161010101: the counter may be read wrongly"],
    ),
    malformed_tree(
        "tree-too-many-cpus",
        malformed_trees::too_many_cpus,
        &["ignored: more than 128", "init: exit status 0"],
    ),
    Case {
        start: BootMethod::El3(TreeSource::Truncated),
        expect: ConsoleExpectation::Halt { shown: &["error: malformed device tree: ", "; halted"] },
        ..error_boot("tree-truncated", "", &[])
    },
    Case {
        start: BootMethod::El3(TreeSource::Invalid),
        expect: ConsoleExpectation::Halt { shown: &["error: ", "device tree", "; halted"] },
        ..error_boot("tree-invalid", "", &[])
    },
    Case {
        start: BootMethod::El3(TreeSource::None),
        expect: ConsoleExpectation::Halt { shown: &["error: no device tree: x0 = ", "; halted"] },
        ..error_boot("tree-missing", "", &[])
    },
];
