//! A machine to boot on, as QEMU arguments.

use std::path::{Path, PathBuf};

/// A machine of QEMU's. The default has everything that Tessera drives.
#[derive(Clone, Debug)]
pub struct QemuMachine {
    /// QEMU's machine name: `virt` (SMMU with two stages), `virt-9.1` (stage 1 only), `raspi3b` ...
    pub board: String,
    /// The version of the interrupt controller, 2 or 3, where that can be chosen (`virt`).
    pub gic: u8,
    /// Whether an SMMUv3 sits before PCIe, where that can be chosen (`virt`).
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
    /// Which of the serial lines is the console; the ones before it go nowhere.
    pub console: usize,
    /// Arguments that change anything of the above; put last.
    pub extra: Vec<String>,
}

/// Machines that are described alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BoardFamily {
    /// QEMU's own board: everything can be chosen.
    Virt,
    /// A Raspberry Pi: nothing can.
    RaspberryPi,
    /// QEMU's server board: CPUs and memory can.
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

/// What is booted.
#[derive(Clone, Debug)]
pub struct BootInput {
    /// How the image gets into memory.
    pub entry: BootImage,
    /// The initramfs, if one is handed over.
    pub initramfs: Option<PathBuf>,
    /// The boot arguments.
    pub append: String,
}

/// How the image gets into memory.
#[derive(Clone, Debug)]
pub enum BootImage {
    /// A flat image, by the boot protocol: EL2 if the machine has it, else EL1, x0 = the device tree. Or an ELF file,
    /// which QEMU enters at the highest exception level with x0 = 0 ([`crate::el3_wrapper`]).
    Kernel(PathBuf),
    /// As above, with this device tree in place of QEMU's.
    KernelWithTree(PathBuf, PathBuf),
    /// A disk image, by the boot loader that is the machine's firmware.
    Disk { firmware: PathBuf, disk: PathBuf },
}

impl QemuMachine {
    /// QEMU's arguments, without the console.
    pub fn arguments(&self, boot: &BootInput) -> Vec<String> {
        let mut words = self.hardware();
        boot.entry.arguments(&mut words);
        if let Some(initramfs) = &boot.initramfs {
            words.extend(["-initrd".into(), initramfs.display().to_string()]);
        }
        if !boot.append.is_empty() {
            words.extend(["-append".into(), boot.append.clone()]);
        }
        words.extend(self.extra.iter().cloned());
        words
    }

    /// What kind of machine it is.
    pub fn family(&self) -> BoardFamily {
        match self.board.as_str() {
            "sbsa-ref" => BoardFamily::SbsaRef,
            board if board.starts_with("raspi") => BoardFamily::RaspberryPi,
            _ => BoardFamily::Virt,
        }
    }

    /// Where RAM starts.
    pub fn ram(&self) -> u64 {
        match self.family() {
            BoardFamily::Virt => 1 << 30,
            BoardFamily::RaspberryPi => 0,
            BoardFamily::SbsaRef => 1 << 40,
        }
    }

    fn hardware(&self) -> Vec<String> {
        let mut words = match self.family() {
            BoardFamily::Virt => self.virt(),
            BoardFamily::RaspberryPi => ["-M", &self.board, "-no-reboot"].map(String::from).into(),
            BoardFamily::SbsaRef => self.sbsa_ref(),
        };
        // The console is the next one, which whoever starts QEMU adds.
        words.extend(["-serial", "null"].repeat(self.console).into_iter().map(String::from));
        words
    }

    fn sbsa_ref(&self) -> Vec<String> {
        // Its display adapter wants a file that Debian packages elsewhere.
        let fixed = ["-nic", "none", "-no-reboot", "-global", "bochs-display.romfile="];
        let sized = ["-M", &self.board, "-cpu", &self.cpu, "-smp", &self.cpus, "-m", &self.memory];
        let words = sized.iter().chain(&fixed).map(|word| (*word).to_owned());
        words.chain(self.devices.iter().cloned()).collect()
    }

    fn virt(&self) -> Vec<String> {
        let smmu = if self.smmu { ",iommu=smmuv3" } else { "" };
        let comma = if self.options.is_empty() { "" } else { "," };
        let machine = format!("{},gic-version={}{smmu}{comma}{}", self.board, self.gic, self.options);
        let fixed = ["-nic", "none", "-no-reboot"];
        let sized = ["-M", &machine, "-cpu", &self.cpu, "-smp", &self.cpus, "-m", &self.memory];
        let words = sized.iter().chain(&fixed).map(|word| (*word).to_owned());
        words.chain(self.devices.iter().cloned()).collect()
    }
}

impl BootImage {
    /// The file that QEMU loads.
    pub fn kernel(&self) -> &Path {
        match self {
            Self::Kernel(path) | Self::KernelWithTree(path, _) | Self::Disk { disk: path, .. } => path,
        }
    }

    fn arguments(&self, words: &mut Vec<String>) {
        let shown = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Kernel(kernel) => words.extend(["-kernel".into(), shown(kernel)]),
            Self::KernelWithTree(kernel, tree) => {
                words.extend(["-kernel".into(), shown(kernel), "-dtb".into(), shown(tree)]);
            }
            Self::Disk { firmware, disk } => {
                let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}", shown(disk));
                words.extend(["-bios".into(), shown(firmware), "-drive".into(), drive]);
                words.extend(["-device", "virtio-blk-pci,drive=disk"].map(String::from));
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
    fn the_default_machine_is_spelled_out() {
        let line = QemuMachine::default().arguments(&boot("selftest lowmem=256M")).join(" ");
        assert_eq!(
            line,
            "-M virt,gic-version=3,iommu=smmuv3 -cpu max -smp 4 -m 2G -nic none -no-reboot -device edu \
             -kernel k.img -initrd i.cpio -append selftest lowmem=256M"
        );
    }

    #[test]
    fn a_raspberry_pi_is_what_it_is() {
        let machine = QemuMachine { board: "raspi3b".into(), console: 1, ..QemuMachine::default() };
        let words = machine.arguments(&boot(""));
        assert_eq!(words[..5], ["-M", "raspi3b", "-no-reboot", "-serial", "null"]);
    }

    #[test]
    fn extra_arguments_come_last_so_that_they_win() {
        let machine = QemuMachine { extra: vec!["-m".into(), "8G".into()], ..QemuMachine::default() };
        let words = machine.arguments(&boot("x"));
        assert_eq!(words[words.len() - 2..], ["-m", "8G"]);
    }

    #[test]
    fn a_machine_without_smmu_names_none() {
        let machine =
            QemuMachine { smmu: false, options: "virtualization=on".into(), ..QemuMachine::default() };
        assert_eq!(machine.arguments(&boot(""))[1], "virt,gic-version=3,virtualization=on");
    }
}
