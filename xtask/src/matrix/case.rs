//! A row of the matrix: a machine, the boot, and the expected console.

use crate::el3_wrapper::TreeSource;
use crate::expectation::ConsoleExpectation;
use crate::machine::QemuMachine;
use crate::malformed_trees::TreeChange;

/// One boot and its expected console.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The case on the command line, in the report and in the name of its log file.
    pub name: &'static str,
    /// The verb that runs it.
    pub tier: Tier,
    pub kernel: KernelBuild,
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
    /// The number of the serial line that is the console.
    pub console: usize,
    /// How the kernel is booted.
    pub start: BootMethod,
    /// The boot arguments.
    pub append: &'static str,
    /// Texts of lines of the console, in order, and the keys that are typed after each.
    pub typed: &'static [(&'static str, &'static str)],
    /// The expected console.
    pub expect: ConsoleExpectation,
    /// The line of the console after which the screen shows the mosaic, if it does.
    pub screen: Option<&'static str>,
    /// An additional check of the console; returns the failures.
    pub inspect: fn(&str) -> Vec<String>,
    /// The time limit in seconds. Two QEMUs share two cores; a case takes a fifth of this.
    pub limit: u64,
}

/// The verb that runs a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// `make test`: each board and each kind of boot once, within its 15 minutes.
    Test,
    /// `make check` alone: more machines of a kind, and long runs.
    Check,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelBuild {
    Product,
    /// The product with fault injection and debug checks (feature `checking`).
    Checking,
}

/// How a case is booted.
#[derive(Clone, Copy, Debug)]
pub enum BootMethod {
    /// The image and the initramfs, by the boot protocol.
    Image,
    /// The image alone.
    WithoutInitramfs,
    /// The image and an initramfs that is truncated in the middle of a file.
    TruncatedInitramfs,
    /// The image and a file that is not an archive.
    InvalidInitramfs,
    /// The image and an initramfs of invalid programs (text, a truncated ELF file, another architecture).
    InvalidPrograms,
    /// As [`BootMethod::Image`], with the board's own device tree in which strings are replaced.
    BoardTree(&'static [(&'static str, &'static str)]),
    /// As [`BootMethod::Image`], with the board's own device tree, modified.
    ModifiedBoardTree(TreeChange),
    /// As [`BootMethod::Image`], with QEMU's device tree in which strings are replaced.
    PatchedTree(&'static [(&'static str, &'static str)]),
    /// The disk image of `make image BOARD=generic`, through U-Boot. The boot arguments are in it.
    Disk,
    /// At the highest exception level, on all CPUs at once, with this device tree.
    El3(TreeSource),
    /// As [`BootMethod::El3`], after an earlier stage that left the device writing into the initramfs. The
    /// file's checksum is appended to the boot arguments.
    DmaLeftRunning,
}

impl Case {
    /// The case's machine.
    pub fn machine(&self) -> QemuMachine {
        QemuMachine {
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
