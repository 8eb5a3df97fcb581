//! All self-tests, on each machine that changes the code's path. These are the longest rows.

use super::bases::{SELFTEST, raspberry_pi};
use super::case::{BootMethod, Case, Tier};
use super::devices::{BEHIND_BRIDGES, STAGE2_ONLY, TWO_EDUS, WIDE_EDU};
use crate::expectation::ConsoleExpectation;

/// Neither the devices nor the SMMU's walks snoop the caches.
const NON_COHERENT: &[(&str, &str)] = &[("dma-coherent", "dma-coherenX")];
/// No controller of messages: INTx.
const WITHOUT_MSI: &[(&str, &str)] = &[("msi-map", "msi-maX")];
/// The console on the first UART, as with `dtoverlay=disable-bt`.
const FIRST_UART: &[(&str, &str)] = &[("serial1:115200n8", "serial0:115200n8")];

/// The rows.
pub const CASES: &[Case] = &[
    Case {
        name: "virt-gicv3-4cpu-2G",
        devices: TWO_EDUS,
        expect: ConsoleExpectation::KtapWithoutSkips,
        ..SELFTEST
    },
    Case { name: "virt-gicv3-4cpu-4G", tier: Tier::Check, memory: "4G", append: "selftest", ..SELFTEST },
    Case { name: "virt-gicv2-4cpu-2G", tier: Tier::Check, gic: 2, ..SELFTEST },
    Case {
        name: "virt-gicv3-1cpu-512M",
        tier: Tier::Check,
        cpus: "1",
        memory: "512M",
        append: "selftest",
        ..SELFTEST
    },
    Case { name: "virt-gicv2-1cpu-4G", gic: 2, cpus: "1", memory: "4G", append: "selftest", ..SELFTEST },
    Case { name: "virt-9.1-stage1-only", tier: Tier::Check, board: "virt-9.1", ..SELFTEST },
    Case { name: "virt-9.1-stage2-only", board: "virt-9.1", cpus: "2", devices: STAGE2_ONLY, ..SELFTEST },
    Case {
        name: "virt-el2-entry",
        tier: Tier::Check,
        options: "dtb-randomness=off,virtualization=on",
        ..SELFTEST
    },
    Case { name: "virt-no-smmu", smmu: false, ..SELFTEST },
    Case { name: "virt-iommu-off", tier: Tier::Check, append: "selftest lowmem=256M iommu=off", ..SELFTEST },
    // A device that reaches all of RAM without translation.
    Case {
        name: "virt-iommu-off-wide-edu",
        tier: Tier::Check,
        devices: WIDE_EDU,
        append: "selftest=dma.*,msi.*,streaming.*,programs.edu_copies_pinned*,programs.edu_refuses* \
                 lowmem=256M iommu=off edu.mask=64",
        ..SELFTEST
    },
    Case {
        name: "virt-3cpu-768M-lowmem-64M",
        tier: Tier::Check,
        cpus: "3",
        memory: "768M",
        append: "selftest lowmem=64M",
        ..SELFTEST
    },
    Case {
        name: "virt-cortex-a53",
        tier: Tier::Check,
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
    // Events of a transfer are lost.
    Case {
        name: "virt-event-queue-overflow",
        append: "selftest=programs.only_lost_events*,programs.quarantined* lowmem=256M iommu.events=64",
        expect: ConsoleExpectation::KtapWithoutSkips,
        ..SELFTEST
    },
    Case { name: "virt-non-coherent", cpus: "2", start: BootMethod::PatchedTree(NON_COHERENT), ..SELFTEST },
    Case { name: "virt-intx", cpus: "2", start: BootMethod::PatchedTree(WITHOUT_MSI), ..SELFTEST },
    Case { name: "virt-edu-behind-bridges", tier: Tier::Check, devices: BEHIND_BRIDGES, ..SELFTEST },
    Case { name: "virt-no-edu", tier: Tier::Check, devices: &[], ..SELFTEST },
    raspberry_pi("raspi3b", "raspi3b"),
    Case {
        console: 0,
        start: BootMethod::BoardTree(FIRST_UART),
        ..raspberry_pi("raspi4b-first-uart", "raspi4b")
    },
    Case {
        name: "virt-highmem-off",
        tier: Tier::Check,
        options: "dtb-randomness=off,highmem=off",
        ..SELFTEST
    },
];
