//! The bases of rows: `Case { the differences, ..BASE }`.

use super::case::{BootMethod, Case, KernelBuild, Tier};
use super::devices::TWO_EDUS;
use crate::expectation::ConsoleExpectation;
use crate::machine::EDU;

/// The start of a panic's report.
pub const PANIC: &str = "kernel panic:";

/// All self-tests on the machine with every device.
pub const SELFTEST: Case = Case {
    name: "",
    tier: Tier::Test,
    kernel: KernelBuild::Product,
    board: "virt",
    gic: 3,
    smmu: true,
    options: "dtb-randomness=off",
    cpu: "max",
    cpus: "4",
    memory: "2G",
    devices: &EDU,
    console: 0,
    start: BootMethod::Image,
    append: "selftest lowmem=256M",
    typed: &[],
    expect: ConsoleExpectation::Ktap,
    screen: None,
    inspect: |_| Vec::new(),
    limit: 600,
};

/// The self-tests that depend on the machine: tables, zones, devices, time, and a program of each kind.
pub const SHAPE: &str = "selftest=boot.*,memory.*,dma.edu*,dma.iommu_maps*,dma.all_cpus*,\
                     smmu.access_to_freed*,programs.std*,programs.clocks*,programs.edu_copies*";

/// A machine on which [`SHAPE`] runs and no self-test is skipped.
pub const SHAPED: Case = Case {
    cpus: "2",
    memory: "1G",
    append: SHAPE,
    expect: ConsoleExpectation::KtapWithoutSkips,
    limit: 150,
    ..SELFTEST
};

/// A Raspberry Pi with the device tree of Debian's kernel, whose console is the second UART.
pub const fn raspberry_pi(name: &'static str, board: &'static str) -> Case {
    let (start, append) = (BootMethod::BoardTree(&[]), "selftest lowmem=256M");
    Case { name, board, console: 1, start, append, ..SELFTEST }
}

/// All self-tests on the checking build.
pub const CHECKING: Case = Case {
    name: "checking",
    kernel: KernelBuild::Checking,
    cpus: "2",
    memory: "768M",
    devices: TWO_EDUS,
    ..SELFTEST
};

/// A boot that reports an error and powers off, on the smallest machine.
pub const fn error_boot(name: &'static str, append: &'static str, shown: &'static [&'static str]) -> Case {
    let expect = ConsoleExpectation::PowerOff { shown, never: &[PANIC] };
    Case { name, cpus: "1", memory: "512M", append, expect, limit: 60, ..SELFTEST }
}
