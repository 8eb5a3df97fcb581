//! A boot that measures: which machine, what it measures, and the figures it prints.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::figures::{self, Figure};
use crate::artifacts::Artifacts;
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::qemu::{self, QemuExit};
use crate::workspace;

/// The CPU of the figures (QEMU's `-cpu`), and of Linux's: DC ZVA, LSE atomics and range TLBI, no FEAT_MOPS.
pub const CPU: &str = "neoverse-n2";
/// A CPU with FEAT_MOPS.
const CPU_WITH_MOPS: &str = "max";
/// A run takes well below a minute on a free host.
const LIMIT: Duration = Duration::from_secs(600);

/// A machine to measure on, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Names the log file.
    pub name: &'a str,
    /// The peer's name for such a machine.
    pub mode: Mode,
    /// QEMU's `-cpu`.
    pub cpu: &'a str,
    /// QEMU's `-smp`.
    pub cpus: &'a str,
    /// QEMU's `-m`.
    pub memory: &'a str,
    /// What is measured, as `bench=` takes it.
    pub glob: &'a str,
    /// How many edu devices there are besides the first.
    pub neighbours: usize,
    /// More boot arguments.
    pub append: &'a str,
}

/// What a tick is. The names are the peer's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// `a`: an instruction, on one CPU.
    Instructions,
    /// `m`: an instruction, on one CPU with FEAT_MOPS.
    InstructionsWithMops,
    /// `b`: a nanosecond of the host's, each CPU in a thread of its own. Only ratios within one run mean anything.
    Wall,
    /// `c`: an instruction of any of several CPUs, which run in turns.
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
/// The same, for a kernel that counts events.
pub const EVENTS: Session<'_> = Session { name: "events", ..OPERATIONS };
/// Allocation on a CPU with FEAT_MOPS.
pub const MOPS: Session<'_> = Session {
    name: "mops",
    mode: Mode::InstructionsWithMops,
    cpu: CPU_WITH_MOPS,
    glob: "alloc",
    ..OPERATIONS
};
/// Costs against what they could grow with.
pub const GROWTH: Session<'_> = Session { name: "growth", glob: "growth_*", ..OPERATIONS };
/// A device among others that fault: as many as have room for a thousand events each in the event queue.
pub const NEIGHBOUR: Session<'_> =
    Session { name: "neighbour", glob: "neighbour", neighbours: 7, ..OPERATIONS };
/// The same with an event queue that overflows with each transfer of any of them.
pub const OVERFLOW: Session<'_> = Session { name: "overflow", append: "iommu.events=256", ..NEIGHBOUR };
/// Four CPUs at the same time.
pub const CONTENTION: Session<'_> = Session {
    name: "contention",
    mode: Mode::InstructionsOfAll,
    cpus: "4",
    glob: "contention",
    ..OPERATIONS
};
/// Two CPUs by the host's clock.
pub const WALL: Session<'_> = Session { name: "wall", mode: Mode::Wall, cpus: "2", ..CONTENTION };
/// Machines that differ in nothing but RAM, the smallest first.
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
    /// Boots and reads what the console says.
    ///
    /// # Errors
    /// [`Error::Measurement`] when the run did not end as it should, or measured nothing.
    pub fn measure(&self, built: &Artifacts) -> Result<Vec<Figure>> {
        let log = self.log()?;
        print!("measuring {} (bench={}, {} CPU, {}): ", self.name, self.glob, self.cpus, self.memory);
        // A progress line that does not show is no fault of the measurement.
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let started = Instant::now();
        let boot = BootInput {
            entry: BootImage::Kernel(built.image.clone()),
            initramfs: Some(built.initramfs.clone()),
            append: format!("bench={} loglevel=5 {}", self.glob, self.append),
        };
        let run = qemu::capture(&self.machine().arguments(&boot), LIMIT, &log, |_| false)?;
        let figures = figures::from_console(&run.console, self.mode.letter());
        println!("{} figures in {:.0} s", figures.len(), started.elapsed().as_secs_f64());
        let complaint = match run.exit {
            QemuExit::PoweredOff if figures.is_empty() => Some("measured nothing".into()),
            QemuExit::PoweredOff => {
                run.console.lines().find(|line| line.starts_with("error: ")).map(String::from)
            }
            end => Some(format!("{end:?}")),
        };
        match complaint {
            Some(why) => Err(Error::Measurement { session: self.name.into(), why, log }),
            None => Ok(figures),
        }
    }

    /// Where the console goes.
    pub fn log(&self) -> Result<PathBuf> {
        let directory = workspace::target().join("report");
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        Ok(directory.join(format!("{}.log", self.name)))
    }

    /// The peer's machine, with an edu device whose mask is wide, and others as they are. RAM is not set aside on the host before it is used.
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
