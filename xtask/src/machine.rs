//! A machine as QEMU arguments.

use std::path::{Path, PathBuf};

/// A QEMU machine. The default has every device that Tessera drives.
#[derive(Clone, Debug)]
pub struct QemuMachine {
    /// QEMU's machine name: `virt` (SMMU with two stages), `virt-9.1` (stage 1 only), `raspi3b` ...
    pub board: String,
    /// The version of the interrupt controller, 2 or 3 (`virt` only).
    pub gic: u8,
    /// Whether there is an SMMUv3 in front of PCIe (`virt` only).
    pub smmu: bool,
    /// Other machine options, such as `virtualization=on`.
    pub options: String,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// QEMU's `-smp`.
    pub cpus: String,
    /// QEMU's `-m`.
    pub memory: String,
    /// Arguments that add devices.
    pub devices: Vec<String>,
    /// The number of the serial line that is the console; the ones before it are not connected.
    pub console: usize,
    /// More arguments; put last, so that they override.
    pub extra: Vec<String>,
}

/// The boards by their configurable parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BoardFamily {
    /// QEMU's virtual board: everything can be configured.
    Virt,
    /// A Raspberry Pi: nothing can be configured.
    RaspberryPi,
    /// QEMU's server board: CPUs and memory can be configured.
    SbsaRef,
}

impl Default for QemuMachine {
    fn default() -> Self {
        Self {
            board: "virt".into(),
            gic: 3,
            smmu: true,
            options: String::new(),
            cpu: "max".into(),
            cpus: "4".into(),
            memory: "2G".into(),
            devices: EDU.map(String::from).into(),
            console: 0,
            extra: Vec::new(),
        }
    }
}

/// The device that the demonstration and most self-tests use.
pub const EDU: [&str; 2] = ["-device", "edu"];

/// The files and the boot arguments.
#[derive(Clone, Debug)]
pub struct BootInput {
    /// The image and its loader.
    pub entry: BootImage,
    /// The initramfs, if there is one.
    pub initramfs: Option<PathBuf>,
    /// The boot arguments.
    pub append: String,
}

/// The image and its loader.
#[derive(Clone, Debug)]
pub enum BootImage {
    /// A flat image, by the boot protocol: EL2 if the machine has it, else EL1, x0 = the device tree. Or an
    /// ELF file, which QEMU enters at the highest exception level with x0 = 0 ([`crate::el3_wrapper`]).
    Kernel(PathBuf),
    /// As above, with this device tree in place of QEMU's.
    KernelWithTree(PathBuf, PathBuf),
    /// A disk image, loaded by the boot loader that is the machine's firmware.
    Disk { firmware: PathBuf, disk: PathBuf },
}

impl QemuMachine {
    /// QEMU's arguments, without the console.
    pub fn arguments(&self, boot: &BootInput) -> Vec<String> {
        let mut arguments = self.hardware();
        boot.entry.arguments(&mut arguments);
        if let Some(initramfs) = &boot.initramfs {
            arguments.extend(["-initrd".into(), initramfs.display().to_string()]);
        }
        if !boot.append.is_empty() {
            arguments.extend(["-append".into(), boot.append.clone()]);
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The board's family.
    pub fn family(&self) -> BoardFamily {
        match self.board.as_str() {
            "sbsa-ref" => BoardFamily::SbsaRef,
            board if board.starts_with("raspi") => BoardFamily::RaspberryPi,
            _ => BoardFamily::Virt,
        }
    }

    /// The start of RAM.
    pub fn ram(&self) -> u64 {
        match self.family() {
            BoardFamily::Virt => 1 << 30,
            BoardFamily::RaspberryPi => 0,
            BoardFamily::SbsaRef => 1 << 40,
        }
    }

    fn hardware(&self) -> Vec<String> {
        let mut arguments = match self.family() {
            BoardFamily::Virt => self.virt(),
            BoardFamily::RaspberryPi => ["-M", &self.board, "-no-reboot"].map(String::from).into(),
            BoardFamily::SbsaRef => self.sbsa_ref(),
        };
        // The caller adds the console, which is the next one.
        arguments.extend(["-serial", "null"].repeat(self.console).into_iter().map(String::from));
        arguments
    }

    fn sbsa_ref(&self) -> Vec<String> {
        // Its display adapter needs a ROM file that is in another Debian package.
        let fixed = ["-nic", "none", "-no-reboot", "-global", "bochs-display.romfile="];
        let sized = ["-M", &self.board, "-cpu", &self.cpu, "-smp", &self.cpus, "-m", &self.memory];
        let arguments = sized.iter().chain(&fixed).map(|word| (*word).to_owned());
        arguments.chain(self.devices.iter().cloned()).collect()
    }

    fn virt(&self) -> Vec<String> {
        let smmu = if self.smmu { ",iommu=smmuv3" } else { "" };
        let comma = if self.options.is_empty() { "" } else { "," };
        let machine = format!("{},gic-version={}{smmu}{comma}{}", self.board, self.gic, self.options);
        let fixed = ["-nic", "none", "-no-reboot"];
        let sized = ["-M", &machine, "-cpu", &self.cpu, "-smp", &self.cpus, "-m", &self.memory];
        let arguments = sized.iter().chain(&fixed).map(|word| (*word).to_owned());
        arguments.chain(self.devices.iter().cloned()).collect()
    }
}

impl BootImage {
    /// The file with the image.
    pub fn kernel(&self) -> &Path {
        match self {
            Self::Kernel(path) | Self::KernelWithTree(path, _) | Self::Disk { disk: path, .. } => path,
        }
    }

    fn arguments(&self, arguments: &mut Vec<String>) {
        let shown = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Kernel(kernel) => arguments.extend(["-kernel".into(), shown(kernel)]),
            Self::KernelWithTree(kernel, tree) => {
                arguments.extend(["-kernel".into(), shown(kernel), "-dtb".into(), shown(tree)]);
            }
            Self::Disk { firmware, disk } => {
                let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}", shown(disk));
                arguments.extend(["-bios".into(), shown(firmware), "-drive".into(), drive]);
                arguments.extend(["-device", "virtio-blk-pci,drive=disk"].map(String::from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(append: &str) -> BootInput {
        BootInput {
            entry: BootImage::Kernel("k.img".into()),
            initramfs: Some("i.cpio".into()),
            append: append.into(),
        }
    }

    #[test]
    fn the_default_machine_has_every_device() {
        let line = QemuMachine::default().arguments(&boot("selftest lowmem=256M")).join(" ");
        assert_eq!(
            line,
            "-M virt,gic-version=3,iommu=smmuv3 -cpu max -smp 4 -m 2G -nic none -no-reboot -device edu \
             -kernel k.img -initrd i.cpio -append selftest lowmem=256M"
        );
    }

    #[test]
    fn a_raspberry_pi_has_no_options() {
        let machine = QemuMachine { board: "raspi3b".into(), console: 1, ..QemuMachine::default() };
        let arguments = machine.arguments(&boot(""));
        assert_eq!(arguments[..5], ["-M", "raspi3b", "-no-reboot", "-serial", "null"]);
    }

    #[test]
    fn extra_arguments_come_last() {
        let machine = QemuMachine { extra: vec!["-m".into(), "8G".into()], ..QemuMachine::default() };
        let arguments = machine.arguments(&boot("x"));
        assert_eq!(arguments[arguments.len() - 2..], ["-m", "8G"]);
    }

    #[test]
    fn a_machine_without_smmu_has_no_iommu_option() {
        let machine =
            QemuMachine { smmu: false, options: "virtualization=on".into(), ..QemuMachine::default() };
        assert_eq!(machine.arguments(&boot(""))[1], "virt,gic-version=3,virtualization=on");
    }
}
