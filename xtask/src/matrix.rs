//! Every machine and every boot of `make test`, in one table. To add a case, add a row.

use crate::judge::Expect;
use crate::machine::{EDU, Machine};
use crate::wrap::Tree;
use crate::{odd_trees, run, trace};

/// One boot and what it has to show.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Names the case on the console and its log file.
    pub name: &'static str,
    /// Which kernel it is.
    pub kernel: Kernel,
    /// QEMU's machine name.
    pub board: &'static str,
    /// The interrupt controller's version.
    pub gic: u8,
    /// Whether there is an SMMU.
    pub smmu: bool,
    /// More machine options.
    pub options: &'static str,
    /// QEMU's `-cpu`.
    pub cpu: &'static str,
    /// QEMU's `-smp`.
    pub cpus: &'static str,
    /// QEMU's `-m`.
    pub memory: &'static str,
    /// QEMU arguments that add devices.
    pub devices: &'static [&'static str],
    /// Which of the serial lines is the console.
    pub console: usize,
    /// How it is started.
    pub start: Start,
    /// The boot arguments.
    pub append: &'static str,
    /// What it has to show.
    pub expect: Expect,
    /// The line of the console after which the screen shows the tesserae, if it does.
    pub screen: Option<&'static str>,
    /// Looks at the console once more, and complains.
    pub inspect: fn(&str) -> Vec<String>,
    /// The time limit in seconds. QEMU shares two cores with another one; a case takes a fifth of this.
    pub limit: u64,
}

/// The kernels there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// The one that everybody gets.
    Product,
    /// The one that makes things fail and looks for what should not happen (feature `checking`).
    Checking,
}

/// How a case is started.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The image and the initramfs, by the boot protocol.
    Whole,
    /// The image alone.
    WithoutInitramfs,
    /// The image and an initramfs cut off in the middle of a file.
    CutInitramfs,
    /// The image and an initramfs that is none.
    WrongInitramfs,
    /// The image and an initramfs of programs that are none (text, half of one, one for another machine).
    BrokenPrograms,
    /// As [`Start::Whole`], with the board's own device tree, pieces of it replaced.
    BoardTree(&'static [(&'static str, &'static str)]),
    /// As [`Start::Whole`], with pieces of QEMU's device tree replaced.
    PatchedTree(&'static [(&'static str, &'static str)]),
    /// The disk image of `make image BOARD=generic`, through U-Boot. The boot arguments are in it.
    Disk,
    /// At the highest exception level, on all CPUs at once, with this device tree.
    Bare(Tree),
    /// As [`Start::Bare`], after an earlier stage that left the device writing into the initramfs. The file's checksum comes
    /// behind the boot arguments.
    Haunted,
}

const SELFTEST: Case = Case {
    name: "",
    kernel: Kernel::Product,
    board: "virt",
    gic: 3,
    smmu: true,
    options: "dtb-randomness=off",
    cpu: "max",
    cpus: "4",
    memory: "2G",
    devices: &EDU,
    console: 0,
    start: Start::Whole,
    append: "selftest lowmem=256M",
    expect: Expect::Ktap,
    screen: None,
    inspect: |_| Vec::new(),
    limit: 600,
};

/// Root port, bridge to conventional PCI, another bridge: three more buses before edu.
const BEHIND_BRIDGES: &[&str] = &[
    "-device",
    "pcie-root-port,id=rp0,chassis=1",
    "-device",
    "pcie-pci-bridge,id=br0,bus=rp0",
    "-device",
    "pci-bridge,id=br1,bus=br0,chassis_nr=2,addr=2",
    "-device",
    "edu,bus=br1,addr=3",
];

/// An SMMU without stage 1 (the machine sets the stage itself from `virt-9.2` on).
const STAGE2_ONLY: &[&str] = &["-global", "arm-smmuv3.stage=2", "-device", "edu"];

/// Another root of the PCI hierarchy, which the tree does not mention: its buses start at 128. Only a port fits on it.
const SECOND_ROOT: &[&str] = &[
    "-device",
    "pxb-pcie,bus_nr=128,id=px",
    "-device",
    "pcie-root-port,id=rp0,bus=px,chassis=1",
    "-device",
    "edu,bus=rp0",
];

/// The same past the SMMU.
const BYPASSED_ROOT: &[&str] = &[
    "-device",
    "pxb-pcie,bus_nr=128,id=px,bypass_iommu=on",
    "-device",
    "pcie-root-port,id=rp0,bus=px,chassis=1",
    "-device",
    "edu,bus=rp0",
];

/// Memory in three nodes, two of them with CPUs, and distances between them.
const NUMA: &[&str] = &[
    "-object",
    "memory-backend-ram,id=m0,size=512M",
    "-object",
    "memory-backend-ram,id=m1,size=1G",
    "-object",
    "memory-backend-ram,id=m2,size=512M",
    "-numa",
    "node,nodeid=0,cpus=0-1,memdev=m0",
    "-numa",
    "node,nodeid=1,cpus=2-3,memdev=m1",
    "-numa",
    "node,nodeid=2,memdev=m2",
    "-numa",
    "dist,src=0,dst=1,val=20",
    "-numa",
    "dist,src=0,dst=2,val=40",
    "-numa",
    "dist,src=1,dst=2,val=30",
    "-device",
    "edu",
];

/// RAM that the host need not have: what is not touched is not there.
const UNRESERVED_300G: &[&str] =
    &["-object", "memory-backend-ram,id=ram,size=300G,reserve=off", "-device", "edu"];

/// Two devices that can share a buffer.
const TWO_EDUS: &[&str] = &["-device", "edu", "-device", "edu"];

/// A device that reaches all of RAM by itself, on a machine whose time is instructions.
const LEFT_RUNNING: &[&str] = &["-device", "edu,dma_mask=0xffffffffffffffff", "-icount", "shift=0,sleep=off"];

/// DMA that an earlier stage left running comes while the kernel boots, or a program runs.
const HAUNTED: Case = Case {
    options: "dtb-randomness=off,highmem=off",
    cpus: "1",
    devices: LEFT_RUNNING,
    start: Start::Haunted,
    append: "lowmem=256M init=/bin/probe -- checksum /bin/mosaic",
    ..SELFTEST
};

/// Neither the devices nor the SMMU's walks snoop the caches.
const NON_COHERENT: &[(&str, &str)] = &[("dma-coherent", "dma-coherenX")];

const PANIC: &str = "kernel panic:";

/// Boots that end with an error of their own and power off; on the smallest machine.
const fn refusal(name: &'static str, append: &'static str, shown: &'static [&'static str]) -> Case {
    let expect = Expect::PowerOff { shown, never: &[PANIC] };
    Case { name, cpus: "1", memory: "512M", append, expect, limit: 60, ..SELFTEST }
}

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

/// The self-tests whose outcome depends on the machine's shape: tables, zones, devices, time, and a program of each kind.
const SHAPE: &str = "selftest=boot.*,memory.*,dma.edu*,dma.default*,dma.many*,smmu.freed*,program.std*,\
                     program.clocks*,program.edu_copies*";

/// A machine of another shape, on which some self-tests run and none is skipped.
const SHAPED: Case =
    Case { cpus: "2", memory: "1G", append: SHAPE, expect: Expect::KtapWithoutSkips, limit: 150, ..SELFTEST };

/// RAM above 4 GiB alone, devices by a table.
const SBSA_REF: Case = Case { board: "sbsa-ref", cpu: "neoverse-n2", ..SELFTEST };

/// A Raspberry Pi with the device tree of Debian's kernel, whose console is the second UART.
const fn raspberry_pi(name: &'static str, board: &'static str) -> Case {
    let (start, append) = (Start::BoardTree(&[]), "selftest lowmem=256M");
    Case { name, board, console: 1, start, append, ..SELFTEST }
}

/// The console on the first UART, as `dtoverlay=disable-bt` makes it.
const FIRST_UART: &[(&str, &str)] = &[("serial1:115200n8", "serial0:115200n8")];

/// The self-tests on the checking build.
pub const CHECKING: Case = Case {
    name: "checking",
    kernel: Kernel::Checking,
    cpus: "2",
    memory: "768M",
    devices: TWO_EDUS,
    ..SELFTEST
};

/// All cases; the long ones first, so that two at a time end together.
pub const CASES: &[Case] = &[
    // The self-tests, on every shape of machine that changes the code's path.
    Case { name: "virt-gicv3-4cpu-2G", devices: TWO_EDUS, expect: Expect::KtapWithoutSkips, ..SELFTEST },
    Case { name: "virt-gicv3-4cpu-4G", memory: "4G", append: "selftest", ..SELFTEST },
    Case { name: "virt-gicv2-4cpu-2G", gic: 2, ..SELFTEST },
    Case { name: "virt-gicv3-1cpu-512M", cpus: "1", memory: "512M", append: "selftest", ..SELFTEST },
    Case { name: "virt-gicv2-1cpu-4G", gic: 2, cpus: "1", memory: "4G", append: "selftest", ..SELFTEST },
    Case { name: "virt-9.1-stage1-only", board: "virt-9.1", ..SELFTEST },
    Case { name: "virt-9.1-stage2-only", board: "virt-9.1", cpus: "2", devices: STAGE2_ONLY, ..SELFTEST },
    Case { name: "virt-el2-entry", options: "dtb-randomness=off,virtualization=on", ..SELFTEST },
    Case { name: "virt-no-smmu", smmu: false, ..SELFTEST },
    Case { name: "virt-iommu-off", append: "selftest lowmem=256M iommu=off", ..SELFTEST },
    Case {
        name: "virt-3cpu-768M-lowmem-64M",
        cpus: "3",
        memory: "768M",
        append: "selftest lowmem=64M",
        ..SELFTEST
    },
    Case {
        name: "virt-cortex-a53",
        cpu: "cortex-a53",
        cpus: "2",
        memory: "1G",
        append: "selftest",
        ..SELFTEST
    },
    Case {
        name: "virt-neoverse-n1-el2",
        cpu: "neoverse-n1",
        options: "dtb-randomness=off,virtualization=on",
        ..SELFTEST
    },
    Case { name: "virt-non-coherent", cpus: "2", start: Start::PatchedTree(NON_COHERENT), ..SELFTEST },
    Case { name: "virt-edu-behind-bridges", devices: BEHIND_BRIDGES, ..SELFTEST },
    Case { name: "virt-no-edu", devices: &[], ..SELFTEST },
    raspberry_pi("raspi3b", "raspi3b"),
    Case { console: 0, start: Start::BoardTree(FIRST_UART), ..raspberry_pi("raspi4b-first-uart", "raspi4b") },
    Case { name: "virt-highmem-off", options: "dtb-randomness=off,highmem=off", ..SELFTEST },
    // Other shapes, on which a part of the self-tests says enough.
    Case {
        name: "virt-8cpu-300G",
        cpus: "8",
        memory: "300G",
        options: "dtb-randomness=off,memory-backend=ram",
        devices: UNRESERVED_300G,
        ..SHAPED
    },
    Case { name: "virt-numa", cpus: "4", memory: "2G", devices: NUMA, ..SHAPED },
    Case { name: "virt-2cpu-256M", memory: "256M", ..SHAPED },
    Case { name: "virt-second-root", devices: SECOND_ROOT, ..SHAPED },
    Case { name: "virt-low-ecam", options: "dtb-randomness=off,highmem-ecam=off", ..SHAPED },
    Case { name: "virt-neoverse-n2", cpu: "neoverse-n2", ..SHAPED },
    Case {
        name: "virt-cortex-a72-el2",
        cpu: "cortex-a72",
        options: "dtb-randomness=off,virtualization=on",
        ..SHAPED
    },
    Case { name: "virt-timer-1MHz", cpu: "max,cntfrq=1000000", cpus: "4", ..SHAPED },
    // Past the SMMU that the tree puts in front of it: QEMU tells only ACPI.
    Case {
        name: "virt-bypassed-bus",
        options: "dtb-randomness=off,default-bus-bypass-iommu=on",
        expect: Expect::Ktap,
        ..SHAPED
    },
    Case {
        devices: BYPASSED_ROOT,
        ..refusal(
            "virt-bypassed-root",
            "init=/bin/probe -- hello",
            &[
                "edu 81:00.0: stream 0x8100",
                "warning: 81:00.0: left out: what it writes ",
                "init: exit status 0",
            ],
        )
    },
    // QEMU's edu wants MSIs, which nobody takes here.
    Case {
        name: "virt-no-its",
        options: "dtb-randomness=off,its=off",
        devices: &[],
        append: "selftest=boot.*,memory.*,program.std*",
        ..SHAPED
    },
    // Nobody starts the other CPUs, and nobody switches off.
    Case {
        start: Start::Bare(Tree::Changed(odd_trees::no_psci)),
        cpus: "4",
        expect: Expect::Halt {
            shown: &[
                "warning: cpu 0x1: left out: no way to start it",
                "warning: cpu 0x3: left out: ",
                "cpu: 1 of 4 running",
                "init: exit status 0",
                "; halted",
            ],
        },
        ..refusal("virt-no-psci", "init=/bin/probe -- hello", &[])
    },
    // Without any firmware: all CPUs arrive at EL3, and nobody switches off.
    Case {
        name: "el3-entry",
        options: "dtb-randomness=off,secure=on",
        start: Start::Bare(Tree::Qemus),
        expect: Expect::KtapThenHalt,
        ..SELFTEST
    },
    Case {
        name: "el3-entry-gicv2",
        gic: 2,
        cpus: "4",
        options: "dtb-randomness=off,secure=on",
        start: Start::Bare(Tree::Qemus),
        expect: Expect::KtapThenHalt,
        ..SHAPED
    },
    Case {
        name: "el3-entry-over-el2",
        options: "dtb-randomness=off,secure=on,virtualization=on",
        start: Start::Bare(Tree::Qemus),
        append: "selftest=boot.* lowmem=256M",
        expect: Expect::KtapThenHalt,
        ..SELFTEST
    },
    Case { name: "sbsa-ref", start: Start::Bare(Tree::Qemus), ..SBSA_REF },
    // At EL2 its other CPUs are lost: QEMU sends them nowhere.
    Case {
        name: "sbsa-ref-el2",
        cpus: "1",
        append: "selftest=boot.*",
        expect: Expect::KtapThenHalt,
        ..SBSA_REF
    },
    // More CPUs at work than this host has: what they do has to be right, however long it takes.
    Case {
        name: "contention-8cpu",
        cpus: "8",
        append: "bench=contention",
        expect: Expect::PowerOff {
            shown: &[
                "attrs=alloc_64K_nkm",
                "threads=8",
                "attrs=map_single_4K",
                "threads=8",
                "attrs=sync",
                "threads=8",
            ],
            never: &[PANIC, "error:"],
        },
        ..SELFTEST
    },
    // The checking build: everything once, and some of it with one thing after the other failing.
    CHECKING,
    Case {
        name: "inject",
        append: "selftest=dma.low_*,dma.a_buffer*,stream.scattered*,smmu.detached_s*,program.std*,program.edu_copies_own* \
                 inject inject.first=8 lowmem=256M",
        ..CHECKING
    },
    // The demonstration, as `make run` shows it.
    Case {
        name: "mosaic",
        append: "lowmem=256M dma.trace",
        expect: Expect::PowerOff {
            shown: &["dma: attach", "vmalloc bytes: 0", "init: exit status 0"],
            never: &[PANIC, "smmu: event"],
        },
        inspect: trace::mosaic,
        ..SELFTEST
    },
    // The same program where nothing translates: the DMA engine gathers the pieces.
    Case {
        append: "lowmem=256M dma.trace -- --size=256M",
        screen: Some("screen: 640 x 480"),
        expect: Expect::PowerOff {
            shown: &[
                "bcm2835-dma channel",
                "where RAM jumps",
                "device table pages: 0",
                "init: exit status 0",
            ],
            never: &[PANIC],
        },
        ..raspberry_pi("raspi3b-mosaic", "raspi3b")
    },
    // Through a real boot loader, from the disk image that goes onto a card.
    Case {
        name: "u-boot-disk",
        start: Start::Disk,
        append: run::DEFAULT_APPEND,
        expect: Expect::PowerOff {
            shown: &["U-Boot", "extlinux.conf", "Starting kernel", "vmalloc bytes: 0", "init: exit status 0"],
            never: &[PANIC, "smmu: event"],
        },
        ..SELFTEST
    },
    // What else a program can try.
    Case {
        name: "probe-all",
        append: "init=/bin/probe -- all",
        expect: Expect::PowerOff { shown: &["probe: all: 0 failed", "init: exit status 0"], never: &[PANIC] },
        ..SELFTEST
    },
    // DMA that an earlier stage left running. By instructions: it would come after 100 million of them.
    Case {
        name: "dma-left-running",
        expect: Expect::PowerOff {
            shown: &[
                "smmu at 0x9050000: aborts what it let pass before",
                "pci: 00:01.0 came as a bus master: stopped",
                "probe: checksum: PASS",
                "init: exit status 0",
            ],
            never: &[PANIC],
        },
        ..HAUNTED
    },
    // The same where nothing but the bus can stop it.
    Case {
        name: "dma-left-running-no-smmu",
        smmu: false,
        expect: Expect::PowerOff {
            shown: &["pci: 00:01.0 came as a bus master: stopped", "probe: checksum: PASS"],
            never: &[PANIC],
        },
        ..HAUNTED
    },
    // A minute of everything at the same time; `make soak` has more of them.
    Case {
        name: "soak",
        devices: TWO_EDUS,
        append: "soak=1 lowmem=256M",
        expect: Expect::PowerOff { shown: &["soak: passed"], never: &[PANIC, "soak: FAILED"] },
        ..SELFTEST
    },
    Case {
        name: "probe-fuzz",
        append: "init=/bin/probe -- fuzz 50000",
        expect: Expect::PowerOff { shown: &["probe: fuzz: PASS", "init: exit status 0"], never: &[PANIC] },
        ..SELFTEST
    },
    // What bad input gets.
    refusal("bad-lowmem", "lowmem=banana", &["error: bad boot argument \"lowmem=banana\": "]),
    // A watchdog switches off before there are tables of the kernel's own, too.
    Case {
        expect: Expect::PowerOff {
            shown: &["error: bad boot argument \"lowmem=banana\": "],
            never: &[PANIC],
        },
        append: "lowmem=banana",
        limit: 60,
        ..raspberry_pi("raspi3b-bad-lowmem", "raspi3b")
    },
    Case {
        expect: Expect::PowerOff { shown: &["error: lowmem=0x100000: at least"], never: &[PANIC] },
        append: "lowmem=1M",
        limit: 60,
        ..raspberry_pi("raspi4b-lowmem-too-small", "raspi4b")
    },
    refusal("bad-vmalloc", "vmalloc=-1", &["error: bad boot argument \"vmalloc=-1\": "]),
    refusal("bad-iommu", "iommu=perhaps", &["error: bad boot argument \"iommu=perhaps\": "]),
    refusal(
        "inject-in-a-product",
        "inject=frames",
        &["error: bad boot argument \"inject=frames\": only the checking"],
    ),
    refusal("bad-loglevel", "loglevel=loud", &["error: bad boot argument \"loglevel=loud\": "]),
    refusal("lowmem-too-small", "lowmem=1M", &["error: lowmem=0x100000: at least"]),
    refusal(
        "unknown-argument",
        "frobnicate=1 init=/bin/probe -- hello",
        &["warning: unknown boot argument \"frobnicate=1\"", "init: exit status 0"],
    ),
    refusal("missing-init", "init=/bin/nothing", &["error: init: /bin/nothing: "]),
    Case { start: Start::WithoutInitramfs, ..refusal("no-initramfs", "", &["initramfs"]) },
    Case { start: Start::CutInitramfs, ..refusal("cut-initramfs", "", &["initramfs"]) },
    Case { start: Start::WrongInitramfs, ..refusal("wrong-initramfs", "", &["initramfs"]) },
    Case {
        start: Start::BrokenPrograms,
        ..refusal("init-is-text", "init=/bin/text", &["error: init: /bin/text: "])
    },
    Case {
        start: Start::BrokenPrograms,
        ..refusal("init-is-cut", "init=/bin/cut", &["error: init: /bin/cut: "])
    },
    Case {
        start: Start::BrokenPrograms,
        ..refusal("init-for-another-machine", "init=/bin/foreign", &["error: init: /bin/foreign: "])
    },
    refusal("init-is-a-directory", "init=/bin", &["error: init: /bin: "]),
    refusal("init-segfault", "init=/bin/probe -- segfault", &["init: killed by SIGSEGV"]),
    refusal("init-exit-status", "init=/bin/probe -- exit 7", &["init: exit status 7"]),
    odd_tree(
        "unknown-smmu",
        &[("arm,smmu-v3", "arm,smmu-vX")],
        &["warning: edu 00:01.0: left out: the IOMMU in front of it", "init: exit status 0"],
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
        &["warning: /memory@8000000000000000: left out: ", "init: exit status 0"],
    ),
    odd_node(
        "tree-far-memory",
        odd_trees::far_memory,
        &["warning: memory at 0x400000000000: left out: nothing answers at ", "init: exit status 0"],
    ),
    odd_node(
        "tree-too-much-memory",
        odd_trees::too_much_memory,
        &[
            "warning: memory at 0x40000000: left out: nothing answers at ",
            "error: the device tree names no memory",
        ],
    ),
    odd_node(
        "tree-registers-as-memory",
        odd_trees::registers_as_memory,
        &["warning: memory at 0x8000000: left out: memory cannot be where ", "init: exit status 0"],
    ),
    odd_node(
        "tree-devices-in-memory",
        odd_trees::devices_in_memory,
        &[
            "warning: memory at 0x0: left out: memory cannot be where ",
            "error: the device tree names no memory",
        ],
    ),
    odd_node("tree-reserved-kernel", odd_trees::reserved_kernel, &["left out: ", "init: exit status 0"]),
    Case {
        expect: Expect::Halt {
            shown: &["error: the device tree reserves memory in 8000 places, 1024 are the most", "; halted"],
        },
        ..odd_node("tree-many-reservations", odd_trees::many_reservations, &[])
    },
    odd_node(
        "tree-odd-address-cells",
        odd_trees::odd_address_cells,
        &["warning: /memory@40000000: left out: malformed reg", "error: the device tree names no memory"],
    ),
    odd_node("tree-no-size-cells", odd_trees::no_size_cells, &["error: the device tree names no memory"]),
    odd_node(
        "tree-odd-cells-below",
        odd_trees::odd_cells_below,
        &["warning: /pcie@10000000: left out: malformed interrupt-map", "init: exit status 0"],
    ),
    odd_node(
        "tree-unknown-properties",
        odd_trees::unknown_properties,
        &["edu 00:01.0: stream 0x8", "init: exit status 0"],
    ),
    odd_node("tree-circles", odd_trees::circles, &["left out: ", "init: exit status 0"]),
    odd_node("tree-one-phandle", odd_trees::one_phandle, &["left out: ", "init: exit status 0"]),
    odd_node(
        "tree-too-many-cpus",
        odd_trees::too_many_cpus,
        &["left out: more than 128", "init: exit status 0"],
    ),
    Case {
        start: Start::Bare(Tree::Cut),
        expect: Expect::Halt { shown: &["error: damaged device tree: ", "; halted"] },
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

impl Case {
    /// The machine of this row.
    pub fn machine(&self) -> Machine {
        Machine {
            board: self.board.into(),
            gic: self.gic,
            smmu: self.smmu,
            options: self.options.into(),
            cpu: self.cpu.into(),
            cpus: self.cpus.into(),
            memory: self.memory.into(),
            devices: self.devices.iter().map(|word| (*word).into()).collect(),
            console: self.console,
            extra: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Holds = fn(&Case) -> bool;

    #[test]
    fn every_case_has_a_name_of_its_own_that_can_be_a_file() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        assert!(names.iter().all(|name| !name.is_empty() && name.chars().all(allowed)));
    }

    #[test]
    fn the_promised_shapes_are_all_there() {
        let selftests = || CASES.iter().filter(|case| case.append.starts_with("selftest"));
        let shapes: &[(&str, Holds)] = &[
            ("GICv2", |case| case.gic == 2),
            ("GICv3", |case| case.gic == 3),
            ("1 CPU", |case| case.cpus == "1"),
            ("4 CPUs", |case| case.cpus == "4"),
            ("512 MiB", |case| case.memory == "512M"),
            ("4 GiB", |case| case.memory == "4G"),
            ("stage 1 only", |case| case.board == "virt-9.1" && case.devices == EDU),
            ("stage 2 only", |case| case.devices == STAGE2_ONLY),
            ("EL2 entry", |case| case.options.contains("virtualization=on")),
            ("no SMMU", |case| !case.smmu),
            ("8 CPUs", |case| case.cpus == "8"),
            ("256 MiB", |case| case.memory == "256M"),
            ("300 GiB", |case| case.memory == "300G"),
            ("NUMA", |case| case.devices == NUMA),
            ("a second PCI root", |case| case.devices == SECOND_ROOT),
            ("low ECAM", |case| case.options.contains("highmem-ecam=off")),
            ("all low", |case| case.options.contains("highmem=off")),
            ("no ITS", |case| case.gic == 3 && case.options.contains("its=off")),
            ("EL2 without VHE", |case| {
                case.cpu == "cortex-a72" && case.options.contains("virtualization=on")
            }),
            ("EL2 with VHE", |case| case.cpu == "neoverse-n1" && case.options.contains("virtualization=on")),
            ("EL3 entry", |case| matches!(case.start, Start::Bare(_))),
            ("a slow timer", |case| case.cpu.contains("cntfrq=1000000")),
        ];
        for (shape, is) in shapes {
            assert!(selftests().any(*is), "{shape}");
        }
    }
}
