//! What a row says: a machine, what is started on it, and what it has to show.

use crate::el3_wrapper::TreeSource;
use crate::expectation::Expectation;
use crate::machine::QemuMachine;

/// One boot and what it has to show.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Names the case on the console and its log file.
    pub name: &'static str,
    /// Which kernel it is.
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
    /// Which of the serial lines is the console.
    pub console: usize,
    /// How it is started.
    pub start: BootMethod,
    /// The boot arguments.
    pub append: &'static str,
    /// What it has to show.
    pub expect: Expectation,
    /// The line of the console after which the screen shows the tesserae, if it does.
    pub screen: Option<&'static str>,
    /// Looks at the console once more, and complains.
    pub inspect: fn(&str) -> Vec<String>,
    /// The time limit in seconds. QEMU shares two cores with another one; a case takes a fifth of this.
    pub limit: u64,
}

/// The kernels there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelBuild {
    /// The one that everybody gets.
    Product,
    /// The one that makes things fail and looks for what should not happen (feature `checking`).
    Checking,
}

/// How a case is started.
#[derive(Clone, Copy, Debug)]
pub enum BootMethod {
    /// The image and the initramfs, by the boot protocol.
    Image,
    /// The image alone.
    WithoutInitramfs,
    /// The image and an initramfs cut off in the middle of a file.
    TruncatedInitramfs,
    /// The image and an initramfs that is none.
    InvalidInitramfs,
    /// The image and an initramfs of programs that are none (text, half of one, one for another machine).
    InvalidPrograms,
    /// As [`BootMethod::Image`], with the board's own device tree, pieces of it replaced.
    BoardTree(&'static [(&'static str, &'static str)]),
    /// As [`BootMethod::Image`], with pieces of QEMU's device tree replaced.
    PatchedTree(&'static [(&'static str, &'static str)]),
    /// The disk image of `make image BOARD=generic`, through U-Boot. The boot arguments are in it.
    Disk,
    /// At the highest exception level, on all CPUs at once, with this device tree.
    El3(TreeSource),
    /// As [`BootMethod::El3`], after an earlier stage that left the device writing into the initramfs. The file's checksum comes
    /// behind the boot arguments.
    DmaLeftRunning,
}

impl Case {
    /// The machine of this row.
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
