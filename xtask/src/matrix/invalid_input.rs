//! Errors of invalid input: boot arguments, initramfs archives and first programs.

use super::bases::{PANIC, error_boot, raspberry_pi};
use super::case::{BootMethod, Case};
use crate::expectation::ConsoleExpectation;

/// Boot arguments beyond the limit.
const LONG: &str = match core::str::from_utf8(&[b'x'; 4200]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// The rows.
pub const CASES: &[Case] = &[
    error_boot("bad-lowmem", "lowmem=banana", &["error: bad boot argument \"lowmem=banana\": "]),
    // Before the kernel's own page tables exist, too, the watchdog powers off.
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
            shown: &["error: lowmem=0x100000: must be at least"],
            never: &[PANIC],
        },
        append: "lowmem=1M",
        limit: 60,
        ..raspberry_pi("raspi4b-lowmem-too-small", "raspi4b")
    },
    error_boot("bad-vmalloc", "vmalloc=-1", &["error: bad boot argument \"vmalloc=-1\": "]),
    error_boot("bad-iommu", "iommu=perhaps", &["error: bad boot argument \"iommu=perhaps\": "]),
    error_boot(
        "inject-without-checking",
        "inject=frames",
        &["error: bad boot argument \"inject=frames\": only the checking"],
    ),
    error_boot("bad-loglevel", "loglevel=loud", &["error: bad boot argument \"loglevel=loud\": "]),
    error_boot(
        "bootargs-too-long",
        LONG,
        &["error: /chosen: bootargs of 4200 bytes exceeds the limit of 4096"],
    ),
    error_boot("lowmem-too-small", "lowmem=1M", &["error: lowmem=0x100000: must be at least"]),
    error_boot(
        "unknown-argument",
        "frobnicate=1 init=/bin/probe -- hello",
        &["warning: unknown boot argument \"frobnicate=1\"", "init: exit status 0"],
    ),
    error_boot("missing-init", "init=/bin/nothing", &["error: init: /bin/nothing: "]),
    Case { start: BootMethod::WithoutInitramfs, ..error_boot("no-initramfs", "", &["initramfs"]) },
    Case { start: BootMethod::TruncatedInitramfs, ..error_boot("truncated-initramfs", "", &["initramfs"]) },
    Case { start: BootMethod::InvalidInitramfs, ..error_boot("invalid-initramfs", "", &["initramfs"]) },
    Case {
        start: BootMethod::InvalidPrograms,
        ..error_boot("init-is-text", "init=/bin/text", &["error: init: /bin/text: "])
    },
    Case {
        start: BootMethod::InvalidPrograms,
        ..error_boot(
            "init-not-executable",
            "init=/bin/data",
            &["error: init: /bin/data: no execute permission"],
        )
    },
    Case {
        start: BootMethod::InvalidPrograms,
        ..error_boot("init-truncated", "init=/bin/truncated", &["error: init: /bin/truncated: "])
    },
    Case {
        start: BootMethod::InvalidPrograms,
        ..error_boot("init-other-architecture", "init=/bin/other", &["error: init: /bin/other: "])
    },
    error_boot("init-is-a-directory", "init=/bin", &["error: init: /bin: "]),
    error_boot("init-segfault", "init=/bin/probe -- segfault", &["init: killed by SIGSEGV"]),
    error_boot("init-exit-status", "init=/bin/probe -- exit 7", &["init: exit status 7"]),
];
