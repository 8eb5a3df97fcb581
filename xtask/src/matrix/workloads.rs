//! Successful boots: benchmarks under contention, the checking build, the demonstration, the probes, the soak
//! test.

use super::bases::{CHECKING, PANIC, SELFTEST, raspberry_pi};
use super::case::{BootMethod, Case, Tier};
use super::devices::{COUNTING_CLOCK, LEFT_RUNNING, TWO_EDUS, WIDE_EDU};
use crate::expectation::ConsoleExpectation;
use crate::{irqsoff, run, trace};

/// DMA that an earlier stage left running completes while the kernel boots or a program runs.
const LEFT_RUNNING_BASE: Case = Case {
    options: "dtb-randomness=off,highmem=off",
    cpus: "1",
    devices: LEFT_RUNNING,
    start: BootMethod::DmaLeftRunning,
    append: "lowmem=256M init=/bin/probe -- checksum /bin/mosaic",
    ..SELFTEST
};

/// A program that reads typed input.
const TYPED: Case = Case {
    name: "console-input",
    append: "init=/bin/probe -- terminal-input",
    typed: &[
        ("type a line", "one twx\x7fo\x17three\r"),
        ("type the end of the file", "\x04"),
        ("type three bytes", "\r\x03\x04"),
        ("type nothing", ""),
        ("type the interrupt character", "x\x03"),
    ],
    expect: ConsoleExpectation::PowerOff {
        shown: &[
            "one twx\x08 \x08o\x08 \x08\x08 \x08\x08 \x08three",
            "read \"one three\\n\"",
            "read \"\"",
            "read \"\\r\\u{3}\\u{4}\"",
            "read nothing in time",
            "x^Cinit: killed by SIGINT",
        ],
        never: &[PANIC],
    },
    ..SELFTEST
};

/// The rows.
pub const CASES: &[Case] = &[
    // More CPUs than the host has: the results must be correct, however slow.
    Case {
        name: "contention-8cpu",
        tier: Tier::Check,
        cpus: "8",
        append: "bench=contention",
        expect: ConsoleExpectation::PowerOff {
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
    // The checking build: every self-test, and some of them with fault injection.
    CHECKING,
    // For how long interrupts stay masked, in instructions. One CPU: the counter counts those of all.
    Case {
        name: "irqsoff",
        tier: Tier::Check,
        cpu: "max,cntfrq=1000000000",
        cpus: "1",
        devices: COUNTING_CLOCK,
        inspect: irqsoff::limited,
        ..CHECKING
    },
    // Without an IOMMU. One CPU, so that its own free lists return its freed memory.
    Case {
        name: "checking-no-iommu",
        tier: Tier::Check,
        cpus: "1",
        devices: WIDE_EDU,
        append: "selftest=debug.* lowmem=256M iommu=off edu.mask=64",
        ..CHECKING
    },
    Case {
        name: "inject",
        tier: Tier::Check,
        append: "selftest=dma.non_cacheable_*,dma.buffer_is*,streaming.device_accesses*,smmu.detached_s*,\
                 programs.std*,programs.edu_copies_pinned* inject inject.first=8 lowmem=256M",
        ..CHECKING
    },
    // The demonstration, as `make run` shows it.
    Case {
        name: "mosaic",
        append: "lowmem=256M dma.trace",
        expect: ConsoleExpectation::PowerOff {
            shown: &["dma: attach", "vmalloc bytes: 0", "init: exit status 0"],
            never: &[PANIC, "smmu: event"],
        },
        inspect: trace::mosaic,
        ..SELFTEST
    },
    // The user-space driver of the documentation.
    Case {
        name: "edu-driver",
        append: "lowmem=256M vfio-pci.ids=1234:11e8 init=/bin/edu-driver",
        expect: ConsoleExpectation::PowerOff {
            shown: &["waits by interrupt", "copies across chunk borders verified", "init: exit status 0"],
            never: &[PANIC, "smmu: event", "error:"],
        },
        ..SELFTEST
    },
    // The demonstration without an IOMMU: the DMA engine gathers the chunks.
    Case {
        append: "lowmem=256M dma.trace -- --size=256M",
        screen: Some("screen: 640 x 480"),
        expect: ConsoleExpectation::PowerOff {
            shown: &["bcm2835-dma channel", "(physical 0x", "device table pages: 0", "init: exit status 0"],
            never: &[PANIC],
        },
        ..raspberry_pi("raspi3b-mosaic", "raspi3b")
    },
    // Through a real boot loader, from the disk image for cards.
    Case {
        name: "u-boot-disk",
        start: BootMethod::Disk,
        append: run::DEFAULT_APPEND,
        expect: ConsoleExpectation::PowerOff {
            shown: &["U-Boot", "extlinux.conf", "Starting kernel", "vmalloc bytes: 0", "init: exit status 0"],
            never: &[PANIC, "smmu: event"],
        },
        ..SELFTEST
    },
    // Every probe.
    Case {
        name: "probe-all",
        append: "init=/bin/probe -- all",
        expect: ConsoleExpectation::PowerOff {
            shown: &["probe: all: 0 failed", "init: exit status 0"],
            never: &[PANIC],
        },
        ..SELFTEST
    },
    // The console as a terminal: editing, echo, the end of a file, raw input, and the interrupt character.
    TYPED,
    Case {
        // Polled: the UART is found without the tree, which has its interrupt.
        start: BootMethod::PatchedTree(&[("arm,pl011", "arm,pl01x")]),
        name: "console-input-polled",
        tier: Tier::Check,
        ..TYPED
    },
    // DMA that an earlier stage left running. The clock counts instructions: the write comes after 100
    // million of them.
    Case {
        name: "dma-left-running",
        expect: ConsoleExpectation::PowerOff {
            shown: &[
                "smmu at 0x9050000: was in bypass, aborts now",
                "pci: 00:01.0: disabled bus mastering",
                // The device is used once the transfer has ended.
                "edu 00:01.0: stream 0x8",
                "probe: checksum: PASS",
                "init: exit status 0",
            ],
            never: &[PANIC],
        },
        ..LEFT_RUNNING_BASE
    },
    // The same without an SMMU: only the bus can stop the device.
    Case {
        name: "dma-left-running-no-smmu",
        smmu: false,
        expect: ConsoleExpectation::PowerOff {
            shown: &[
                "pci: 00:01.0: disabled bus mastering",
                "edu 00:01.0: no IOMMU",
                "probe: checksum: PASS",
            ],
            never: &[PANIC],
        },
        ..LEFT_RUNNING_BASE
    },
    // A minute of the soak test; `make soak` runs longer.
    Case {
        name: "soak",
        tier: Tier::Check,
        devices: TWO_EDUS,
        append: "soak=1 lowmem=256M",
        expect: ConsoleExpectation::PowerOff { shown: &["soak: passed"], never: &[PANIC, "soak: FAILED"] },
        ..SELFTEST
    },
    Case {
        name: "probe-fuzz",
        tier: Tier::Check,
        append: "init=/bin/probe -- fuzz 50000",
        expect: ConsoleExpectation::PowerOff {
            shown: &["probe: fuzz: PASS", "init: exit status 0"],
            never: &[PANIC],
        },
        ..SELFTEST
    },
];
