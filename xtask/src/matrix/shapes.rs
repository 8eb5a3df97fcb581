//! Other machines and other boot states, for which some of the self-tests are enough.

use super::bases::{SELFTEST, SHAPED, error_boot};
use super::case::{BootMethod, Case};
use super::devices::{BYPASSED_ROOT, NUMA, SECOND_ROOT, UNRESERVED_300G};
use crate::el3_wrapper::TreeSource;
use crate::expectation::ConsoleExpectation;
use crate::malformed_trees;

/// All RAM above 4 GiB, devices from a table.
const SBSA_REF: Case = Case { board: "sbsa-ref", cpu: "neoverse-n2", ..SELFTEST };

const QARMA3: &str = "max,pauth=on,pauth-qarma3=on";
const PACGA: &str = "init=/bin/probe -- pacga";
const PACGA_PASSED: &[&str] = &["probe: pacga: PASS", "init: exit status 0"];
const PACGA_THEN_HALT: ConsoleExpectation =
    ConsoleExpectation::Halt { shown: &["probe: pacga: PASS", "init: exit status 0", "; halted"] };

/// The kernel read the time of the host, which is later than the start of 2025.
fn real_time_is_set(console: &str) -> Vec<String> {
    let seconds =
        console.lines().find_map(|line| line.strip_prefix("rtc: ")?.split(' ').next()?.parse().ok());
    match seconds {
        Some(1_735_689_600_u64..) => Vec::new(),
        other => vec![format!("seconds of the real-time clock: {other:?}")],
    }
}

/// The rows.
pub const CASES: &[Case] = &[
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
    // The bus bypasses the SMMU of its `iommu-map`: QEMU describes the bypass only in ACPI.
    Case {
        name: "virt-bypassed-bus",
        options: "dtb-randomness=off,default-bus-bypass-iommu=on",
        expect: ConsoleExpectation::Ktap,
        ..SHAPED
    },
    Case {
        devices: BYPASSED_ROOT,
        ..error_boot(
            "virt-bypassed-root",
            "init=/bin/probe -- hello",
            &[
                "edu 81:00.0: stream 0x8100",
                "warning: 81:00.0: ignored: DMA bypasses the IOMMU ",
                "init: exit status 0",
            ],
        )
    },
    // QEMU's edu needs MSIs, and there is no MSI controller.
    Case {
        name: "virt-no-its",
        options: "dtb-randomness=off,its=off",
        devices: &[],
        append: "selftest=boot.*,memory.*,programs.std*",
        ..SHAPED
    },
    // Without PSCI: the other CPUs are not started, and the kernel halts instead of powering off.
    Case {
        start: BootMethod::El3(TreeSource::Modified(malformed_trees::no_psci)),
        cpus: "4",
        expect: ConsoleExpectation::Halt {
            shown: &[
                "warning: cpu 0x1: ignored: no enable method",
                "warning: cpu 0x3: ignored: ",
                "cpu: 1 of 4 running",
                "init: exit status 0",
                "; halted",
            ],
        },
        ..error_boot("virt-no-psci", "init=/bin/probe -- hello", &[])
    },
    // Without firmware: all CPUs arrive at EL3, and the kernel halts instead of powering off.
    Case {
        name: "el3-entry",
        options: "dtb-randomness=off,secure=on",
        start: BootMethod::El3(TreeSource::Qemu),
        expect: ConsoleExpectation::KtapThenHalt,
        ..SELFTEST
    },
    Case {
        name: "el3-entry-gicv2",
        gic: 2,
        cpus: "4",
        options: "dtb-randomness=off,secure=on",
        start: BootMethod::El3(TreeSource::Qemu),
        expect: ConsoleExpectation::KtapThenHalt,
        ..SHAPED
    },
    Case {
        name: "el3-entry-over-el2",
        options: "dtb-randomness=off,secure=on,virtualization=on",
        start: BootMethod::El3(TreeSource::Qemu),
        append: "selftest=boot.* lowmem=256M",
        expect: ConsoleExpectation::KtapThenHalt,
        ..SELFTEST
    },
    // QARMA3: the instructions are described by ID_AA64ISAR2_EL1 alone.
    Case {
        cpu: QARMA3,
        options: "dtb-randomness=off,secure=on",
        start: BootMethod::El3(TreeSource::Qemu),
        expect: PACGA_THEN_HALT,
        ..error_boot("el3-entry-pauth-qarma3", PACGA, &[])
    },
    Case {
        cpu: QARMA3,
        options: "dtb-randomness=off,secure=on,virtualization=on",
        start: BootMethod::El3(TreeSource::Qemu),
        expect: PACGA_THEN_HALT,
        ..error_boot("el3-entry-over-el2-pauth-qarma3", PACGA, &[])
    },
    Case {
        cpu: QARMA3,
        options: "dtb-randomness=off,virtualization=on",
        ..error_boot("virt-el2-entry-pauth-qarma3", PACGA, PACGA_PASSED)
    },
    Case {
        name: "sbsa-ref",
        start: BootMethod::El3(TreeSource::Qemu),
        inspect: real_time_is_set,
        ..SBSA_REF
    },
    // At EL2, QEMU does not start its other CPUs.
    Case {
        name: "sbsa-ref-el2",
        cpus: "1",
        append: "selftest=boot.*",
        expect: ConsoleExpectation::KtapThenHalt,
        ..SBSA_REF
    },
];
