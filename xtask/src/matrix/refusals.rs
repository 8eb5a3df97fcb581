//! What bad input gets: boot arguments, initramfs archives and first programs that are none.

use super::bases::{PANIC, raspberry_pi, refusal};
use super::case::{BootMethod, Case};
use crate::expectation::ConsoleExpectation;

/// The rows.
pub const CASES: &[Case] = &[
    refusal("bad-lowmem", "lowmem=banana", &["error: bad boot argument \"lowmem=banana\": "]),
    // A watchdog switches off before there are tables of the kernel's own, too.
    Case {
        expect: ConsoleExpectation::PowerOff {
            shown: &["error: bad boot argument \"lowmem=banana\": "],
            never: &[PANIC],
        },
        append: "lowmem=banana",
        limit: 60,
        ..raspberry_pi("raspi3b-bad-lowmem", "raspi3b")
    },
    Case {
        expect: ConsoleExpectation::PowerOff {
            shown: &["error: lowmem=0x100000: at least"],
            never: &[PANIC],
        },
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
    Case { start: BootMethod::WithoutInitramfs, ..refusal("no-initramfs", "", &["initramfs"]) },
    Case { start: BootMethod::TruncatedInitramfs, ..refusal("cut-initramfs", "", &["initramfs"]) },
    Case { start: BootMethod::InvalidInitramfs, ..refusal("wrong-initramfs", "", &["initramfs"]) },
    Case {
        start: BootMethod::InvalidPrograms,
        ..refusal("init-is-text", "init=/bin/text", &["error: init: /bin/text: "])
    },
    Case {
        start: BootMethod::InvalidPrograms,
        ..refusal("init-is-cut", "init=/bin/cut", &["error: init: /bin/cut: "])
    },
    Case {
        start: BootMethod::InvalidPrograms,
        ..refusal("init-for-another-machine", "init=/bin/foreign", &["error: init: /bin/foreign: "])
    },
    refusal("init-is-a-directory", "init=/bin", &["error: init: /bin: "]),
    refusal("init-segfault", "init=/bin/probe -- segfault", &["init: killed by SIGSEGV"]),
    refusal("init-exit-status", "init=/bin/probe -- exit 7", &["init: exit status 7"]),
];
