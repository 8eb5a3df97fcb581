//! A boot that measures: the machine, the benchmarks, and the figures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::figures::{self, Figure};
use crate::artifacts::Artifacts;
use crate::error::{Error, Result};
use crate::expectation;
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::qemu::{self, QemuExit};
use crate::workspace;

/// The CPU of the figures (QEMU's `-cpu`), and of Linux's: DC ZVA, LSE atomics and range TLBI, no FEAT_MOPS.
pub const CPU: &str = "neoverse-n2";
/// A CPU with FEAT_MOPS.
const CPU_WITH_MOPS: &str = "max";
/// The time limit; a run takes well below a minute on an idle host.
const LIMIT: Duration = Duration::from_secs(600);

/// A machine and its benchmarks.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The name of the log file.
    pub name: &'a str,
    /// The peer's name for such a machine.
    pub mode: Mode,
    /// QEMU's `-cpu`.
    pub cpu: &'a str,
    /// QEMU's `-smp`.
    pub cpus: &'a str,
    /// QEMU's `-m`.
    pub memory: &'a str,
    /// The benchmarks, as `bench=` takes them.
    pub glob: &'a str,
    /// The number of additional edu devices.
    pub neighbours: usize,
    /// More boot arguments.
    pub append: &'a str,
}

/// The unit of a tick. The names are the peer's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// `a`: an instruction, on one CPU.
    Instructions,
    /// `m`: an instruction, on one CPU with FEAT_MOPS.
    InstructionsWithMops,
    /// `b`: a nanosecond of the host, each CPU in its own thread. Only ratios within a run are meaningful.
    Wall,
    /// `c`: an instruction of any of several CPUs, which run round-robin.
    InstructionsOfAll,
}

/// Costs of single operations, on one CPU.
pub const OPERATIONS: Session<'_> = Session {
    name: "operations",
    mode: Mode::Instructions,
    cpu: CPU,
    cpus: "1",
    memory: "4G",
    glob: "floor,alloc,map_*,frag_alloc,mmap",
    neighbours: 0,
    append: "",
};
/// The same, on a kernel with event counters.
pub const EVENTS: Session<'_> = Session { name: "events", ..OPERATIONS };
/// Allocation and processes on a CPU with FEAT_MOPS.
pub const MOPS: Session<'_> = Session {
    name: "mops",
    mode: Mode::InstructionsWithMops,
    cpu: CPU_WITH_MOPS,
    glob: "alloc,process",
    ..OPERATIONS
};
/// The growth of costs.
pub const GROWTH: Session<'_> = Session { name: "growth", glob: "growth_*", ..OPERATIONS };
/// A device with faulting neighbours: as many as the event queue can hold a thousand events of each.
pub const NEIGHBOUR: Session<'_> =
    Session { name: "neighbour", glob: "neighbour", neighbours: 7, ..OPERATIONS };
/// The same with an event queue that overflows with each transfer of any of them.
pub const OVERFLOW: Session<'_> = Session { name: "overflow", append: "iommu.events=256", ..NEIGHBOUR };
/// Four concurrent CPUs.
pub const CONTENTION: Session<'_> = Session {
    name: "contention",
    mode: Mode::InstructionsOfAll,
    cpus: "4",
    glob: "contention",
    ..OPERATIONS
};
/// Two CPUs by wall time.
pub const WALL: Session<'_> = Session { name: "wall", mode: Mode::Wall, cpus: "2", ..CONTENTION };
/// Machines that differ only in RAM, the smallest first.
pub const MACHINES: [Session<'_>; 3] = [
    Session { name: "boot-2G", memory: "2G", glob: "boot", ..OPERATIONS },
    Session { name: "boot-64G", memory: "64G", glob: "boot", ..OPERATIONS },
    Session { name: "boot-300G", memory: "300G", glob: "boot", ..OPERATIONS },
];

impl Mode {
    /// As in the peer's tables.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Instructions => "a",
            Self::InstructionsWithMops => "m",
            Self::Wall => "b",
            Self::InstructionsOfAll => "c",
        }
    }
}

impl Session<'_> {
    /// Boots and reads the figures from the console.
    ///
    /// # Errors
    /// [`Error::Measurement`] if the run did not power off, or printed no figures.
    pub fn measure(&self, built: &Artifacts) -> Result<Vec<Figure>> {
        let log = self.log()?;
        print!("measuring {} (bench={}, {} CPU, {}): ", self.name, self.glob, self.cpus, self.memory);
        // A lost progress line does not affect the measurement.
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let started = Instant::now();
        let boot = BootInput {
            entry: BootImage::Kernel(built.image.clone()),
            initramfs: Some(built.initramfs.clone()),
            append: format!("bench={} loglevel=5 {}", self.glob, self.append),
        };
        let run = qemu::capture(&self.machine().arguments(&boot), LIMIT, &log, &[], |_| false)?;
        let figures = figures::from_console(&run.console, self.mode.letter());
        println!("{} figures in {:.0} s", figures.len(), started.elapsed().as_secs_f64());
        let failure = match run.exit {
            QemuExit::PoweredOff if figures.is_empty() => Some("it printed no figures".into()),
            QemuExit::PoweredOff => {
                run.console.lines().find(|line| line.starts_with("error: ")).map(String::from)
            }
            exit => Some(expectation::exit_failure(exit)),
        };
        match failure {
            Some(why) => Err(Error::Measurement { session: self.name.into(), why, log }),
            None => Ok(figures),
        }
    }

    /// The path of the console log.
    pub fn log(&self) -> Result<PathBuf> {
        let directory = workspace::target().join("report");
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        Ok(directory.join(format!("{}.log", self.name)))
    }

    /// The peer's machine, with an edu device with a wide DMA mask, and more default ones. The host does not
    /// reserve RAM.
    fn machine(&self) -> QemuMachine {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        let ram = format!("-object memory-backend-ram,id=ram,size={},reserve=off", self.memory);
        let clock = match self.mode {
            Mode::Wall => "-accel tcg,thread=multi",
            Mode::Instructions | Mode::InstructionsWithMops | Mode::InstructionsOfAll => {
                "-icount shift=0,sleep=off -seed 1 -rtc base=2024-01-01,clock=vm"
            }
        };
        QemuMachine {
            options: "memory-backend=ram".into(),
            cpu: format!("{},cntfrq=1000000000", self.cpu),
            cpus: self.cpus.into(),
            memory: self.memory.into(),
            devices: words(
                &("-device edu,dma_mask=0xffffffffffff".to_owned() + &" -device edu".repeat(self.neighbours)),
            ),
            extra: [words(&ram), words(clock)].concat(),
            ..QemuMachine::default()
        }
    }
}
