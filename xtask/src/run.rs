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

/// The boards that `BOARD=` accepts, with the versions of `virt` that QEMU has.
const BOARDS: [&str; 4] = ["virt", "raspi3b", "raspi4b", "sbsa-ref"];

/// Boots and connects the console to this terminal; the exit status is QEMU's.
pub fn interactive(knobs: &Knobs) -> Result<ExitCode> {
    tools::qemu()?;
    let machine = machine(knobs, &qemu::machines())?;
    let built = artifacts::build()?;
    start(&machine, knobs, &built, &[])
}

/// Boots stopped at the first instruction, with QEMU's gdb server on port 1234.
pub fn debug(knobs: &Knobs) -> Result<ExitCode> {
    tools::qemu()?;
    let machine = machine(knobs, &qemu::machines())?;
    tools::gdb()?;
    let built = artifacts::build()?;
    let symbols = workspace::images().join("kernel.elf");
    println!("waiting; in another terminal:");
    println!("  gdb-multiarch {} -ex 'target remote localhost:1234'", symbols.display());
    start(&machine, knobs, &built, &["-S", "-gdb", "tcp:127.0.0.1:1234"])
}

fn start(machine: &QemuMachine, knobs: &Knobs, built: &Artifacts, more: &[&str]) -> Result<ExitCode> {
    let terminal = std::io::stdout().is_terminal();
    let input = BootInput {
        entry: BootImage::Kernel(built.image.clone()),
        initramfs: Some(knobs.initrd.clone().unwrap_or_else(|| built.initramfs.clone())),
        append: boot_arguments(knobs.append.as_deref(), terminal),
    };
    let boot = on_board(machine, input)?;
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

/// The machine of the knobs. `emulated` are the names of QEMU's machines.
fn machine(knobs: &Knobs, emulated: &[String]) -> Result<QemuMachine> {
    let mut machine = QemuMachine { extra: knobs.qemu.clone(), ..QemuMachine::default() };
    if let Some(board) = &knobs.board {
        let versions = emulated.iter().map(String::as_str).filter(|name| name.starts_with("virt-"));
        let boards: Vec<&str> = BOARDS.into_iter().chain(versions).collect();
        if !boards.contains(&board.as_str()) {
            let requirement = format!("must be one of {}", boards.join(", "));
            return Err(Error::Knob { name: "BOARD", value: board.clone(), requirement });
        }
        machine.board.clone_from(board);
        // The Raspberry Pi's device tree selects the second UART, as its firmware does.
        machine.console = usize::from(machine.family() == BoardFamily::RaspberryPi);
        if machine.family() == BoardFamily::SbsaRef {
            machine.cpu = "neoverse-n2".into();
        }
    }
    if machine.family() == BoardFamily::RaspberryPi {
        for (name, value) in [("MEM", &knobs.memory), ("SMP", &knobs.cpus)] {
            if let Some(value) = value.clone() {
                let requirement =
                    format!("must be empty, since the RAM and the CPUs of {} are fixed", machine.board);
                return Err(Error::Knob { name, value, requirement });
            }
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
    fn an_unknown_board_is_reported_with_the_known_ones() {
        let emulated = ["virt-9.1".to_owned(), "akita".to_owned()];
        for board in ["raspi9", "virt-nonsense", "akita"] {
            let knobs = Knobs { board: Some(board.into()), ..Knobs::default() };
            let expected =
                format!("BOARD={board}: must be one of virt, raspi3b, raspi4b, sbsa-ref, virt-9.1");
            assert_eq!(machine(&knobs, &emulated).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_raspberry_pi_has_fixed_memory() {
        let (board, memory) = (Some("raspi3b".into()), Some("4G".into()));
        let error = machine(&Knobs { board, memory, ..Knobs::default() }, &[]).unwrap_err();
        assert!(error.to_string().starts_with("MEM=4G: "), "{error}");
    }

    #[test]
    fn knobs_configure_the_machine() {
        let knobs = Knobs {
            board: Some("virt-9.1".into()),
            memory: Some("512M".into()),
            cpus: Some("1".into()),
            qemu: vec!["-s".into()],
            ..Knobs::default()
        };
        let machine = machine(&knobs, &["virt-9.1".to_owned()]).unwrap();
        assert_eq!(
            (machine.board.as_str(), machine.memory.as_str(), machine.cpus.as_str()),
            ("virt-9.1", "512M", "1")
        );
        assert_eq!(machine.extra, ["-s"]);
    }
}
