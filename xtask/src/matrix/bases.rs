//! What rows start from: `Case { what is different, ..BASE }`.

use super::case::{BootMethod, Case, KernelBuild};
use super::devices::TWO_EDUS;
use crate::expectation::Expectation;
use crate::machine::EDU;

/// What no console may show.
pub const PANIC: &str = "kernel panic:";

/// All self-tests on the machine that has everything.
pub const SELFTEST: Case = Case {
    name: "",
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
    expect: Expectation::Ktap,
    screen: None,
    inspect: |_| Vec::new(),
    limit: 600,
};
/// The self-tests whose outcome depends on the machine's shape: tables, zones, devices, time, and a program of each kind.
pub const SHAPE: &str = "selftest=boot.*,memory.*,dma.edu*,dma.default*,dma.many*,smmu.freed*,program.std*,\
                     program.clocks*,program.edu_copies*";

/// A machine of another shape, on which some self-tests run and none is skipped.
pub const SHAPED: Case = Case {
    cpus: "2",
    memory: "1G",
    append: SHAPE,
    expect: Expectation::KtapWithoutSkips,
    limit: 150,
    ..SELFTEST
};

/// A Raspberry Pi with the device tree of Debian's kernel, whose console is the second UART.
pub const fn raspberry_pi(name: &'static str, board: &'static str) -> Case {
    let (start, append) = (BootMethod::BoardTree(&[]), "selftest lowmem=256M");
    Case { name, board, console: 1, start, append, ..SELFTEST }
}

/// The self-tests on the checking build.
pub const CHECKING: Case = Case {
    name: "checking",
    kernel: KernelBuild::Checking,
    cpus: "2",
    memory: "768M",
    devices: TWO_EDUS,
    ..SELFTEST
};
/// Boots that end with an error of their own and power off; on the smallest machine.
pub const fn refusal(name: &'static str, append: &'static str, shown: &'static [&'static str]) -> Case {
    let expect = Expectation::PowerOff { shown, never: &[PANIC] };
    Case { name, cpus: "1", memory: "512M", append, expect, limit: 60, ..SELFTEST }
}
