//! `make run` and `make debug`: one machine on this terminal, configured by the knobs.

use std::io::IsTerminal;
use std::process::{Command, ExitCode};

use crate::artifacts::{self, Artifacts};
use crate::el3_wrapper::{self, TreeSource};
use crate::error::{Error, Result};
use crate::knobs::Knobs;
use crate::machine::{BoardFamily, BootImage, BootInput, QemuMachine};
use crate::{boards, command, qemu, tools, workspace};

/// Default boot arguments: the demonstration's buffer is larger than lowmem.
pub const DEFAULT_APPEND: &str = "lowmem=256M";

/// The boards that `BOARD=` accepts.
const BOARDS: [&str; 4] = ["virt", "raspi3b", "raspi4b", "sbsa-ref"];

/// Boots and connects the console to this terminal; the exit status is QEMU's.
pub fn interactive(knobs: &Knobs) -> Result<ExitCode> {
    tools::qemu()?;
    let built = artifacts::build()?;
    start(knobs, &built, &[])
}

/// Boots stopped at the first instruction, with QEMU's gdb server on port 1234.
pub fn debug(knobs: &Knobs) -> Result<ExitCode> {
    tools::qemu()?;
    tools::gdb()?;
    let built = artifacts::build()?;
    let symbols = workspace::images().join("kernel.elf");
    println!("waiting; in another terminal:");
    println!("  gdb-multiarch {} -ex 'target remote localhost:1234'", symbols.display());
    start(knobs, &built, &["-S", "-gdb", "tcp:127.0.0.1:1234"])
}

fn start(knobs: &Knobs, built: &Artifacts, more: &[&str]) -> Result<ExitCode> {
    let terminal = std::io::stdout().is_terminal();
    let machine = machine(knobs)?;
    let input = BootInput {
        entry: BootImage::Kernel(built.image.clone()),
        initramfs: Some(knobs.initrd.clone().unwrap_or_else(|| built.initramfs.clone())),
        append: boot_arguments(knobs.append.as_deref(), terminal),
    };
    let boot = on_board(&machine, input)?;
    let mut line = Command::new(qemu::PROGRAM);
    line.args(["-display", "none"]).args(more).args(machine.arguments(&boot)).args(["-serial", "mon:stdio"]);
    println!("{}", command::shown(&line));
    if terminal {
        println!("(ctrl-a x ends it)");
    }
    let status = line.status().map_err(|cause| Error::Start { program: qemu::PROGRAM.into(), cause })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The boot on a board whose firmware QEMU does not model.
fn on_board(machine: &QemuMachine, input: BootInput) -> Result<BootInput> {
    match machine.family() {
        BoardFamily::Virt => Ok(input),
        BoardFamily::RaspberryPi => {
            let tree = boards::tree(&machine.board)?;
            Ok(BootInput { entry: BootImage::KernelWithTree(input.entry.kernel().to_owned(), tree), ..input })
        }
        BoardFamily::SbsaRef => {
            let elf = workspace::images().join("sbsa-ref.elf");
            let entry = el3_wrapper::wrap(machine, &input, TreeSource::Qemu, &elf)?;
            Ok(BootInput { entry, initramfs: None, append: String::new() })
        }
    }
}

fn machine(knobs: &Knobs) -> Result<QemuMachine> {
    let mut machine = QemuMachine { extra: knobs.qemu.clone(), ..QemuMachine::default() };
    if let Some(board) = &knobs.board {
        if !BOARDS.contains(&board.as_str()) && !board.starts_with("virt-") {
            let wanted = "not a board this tool can start; it knows virt (and its versions: virt-9.1 ...), \
                          raspi3b, raspi4b and sbsa-ref";
            return Err(Error::Knob { name: "BOARD", value: board.clone(), wanted });
        }
        machine.board.clone_from(board);
        // The Raspberry Pi's device tree selects the second UART, as its firmware does.
        machine.console = usize::from(machine.family() == BoardFamily::RaspberryPi);
        if machine.family() == BoardFamily::SbsaRef {
            machine.cpu = "neoverse-n2".into();
        }
    }
    machine.memory = knobs.memory.clone().unwrap_or(machine.memory);
    machine.cpus = knobs.cpus.clone().unwrap_or(machine.cpus);
    Ok(machine)
}

/// The demonstration cannot detect a terminal behind the serial line, so `--color` is passed.
fn boot_arguments(given: Option<&str>, terminal: bool) -> String {
    let append = given.unwrap_or(DEFAULT_APPEND);
    let names_its_program = append.split_whitespace().any(|word| {
        let name = word.split('=').next().unwrap_or(word);
        matches!(name, "selftest" | "bench" | "init" | "--")
    });
    if terminal && !names_its_program { format!("{append} -- --color") } else { append.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_passed_only_on_a_terminal_and_to_the_demonstration() {
        let table = [
            (None, false, "lowmem=256M"),
            (None, true, "lowmem=256M -- --color"),
            (Some("dma.trace"), true, "dma.trace -- --color"),
            (Some("selftest=zones*"), true, "selftest=zones*"),
            (Some("init=/bin/probe -- hello"), true, "init=/bin/probe -- hello"),
            (Some("lowmem=1G -- --plain"), true, "lowmem=1G -- --plain"),
        ];
        for (given, terminal, expected) in table {
            assert_eq!(boot_arguments(given, terminal), expected);
        }
    }

    #[test]
    fn an_unknown_board_is_named() {
        let knobs = Knobs { board: Some("raspi9".into()), ..Knobs::default() };
        assert!(machine(&knobs).unwrap_err().to_string().starts_with("BOARD=raspi9: "));
    }

    #[test]
    fn knobs_shape_the_machine() {
        let knobs = Knobs {
            board: Some("virt-9.1".into()),
            memory: Some("512M".into()),
            cpus: Some("1".into()),
            qemu: vec!["-s".into()],
            ..Knobs::default()
        };
        let machine = machine(&knobs).unwrap();
        assert_eq!(
            (machine.board.as_str(), machine.memory.as_str(), machine.cpus.as_str()),
            ("virt-9.1", "512M", "1")
        );
        assert_eq!(machine.extra, ["-s"]);
    }
}
