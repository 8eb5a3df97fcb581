//! A boot that measures: which machine, what it measures, and the figures it prints.

use std::path::PathBuf;
use std::time::Duration;

use super::figures::{self, Figure};
use crate::artifacts::Artifacts;
use crate::error::{Error, Result};
use crate::machine::{Boot, Entry, Machine};
use crate::qemu::{self, End};
use crate::workspace;

/// A run takes well below a minute on a free host.
const LIMIT: Duration = Duration::from_secs(600);

/// A machine to measure on, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Names the log file.
    pub name: &'static str,
    /// The peer's name for such a machine: `a` has one CPU, `c` four.
    pub mode: &'static str,
    /// QEMU's `-smp`.
    pub cpus: &'static str,
    /// What is measured, as `bench=` takes it.
    pub glob: &'static str,
}

/// Costs of single operations, on one CPU.
pub const OPERATIONS: Session =
    Session { name: "operations", mode: "a", cpus: "1", glob: "floor,alloc,map_*,frag_alloc,mmap" };
/// Four CPUs at the same time.
pub const CONTENTION: Session = Session { name: "contention", mode: "c", cpus: "4", glob: "contention" };

impl Session {
    /// Boots and reads what the console says.
    ///
    /// # Errors
    /// [`Error::Measurement`] when the run did not end as it should, or measured nothing.
    pub fn measure(&self, built: &Artifacts) -> Result<Vec<Figure>> {
        let log = self.log()?;
        println!("measuring {} ({} on {} CPU)", self.name, self.glob, self.cpus);
        let boot = Boot {
            entry: Entry::Kernel(built.image.clone()),
            initramfs: Some(built.initramfs.clone()),
            append: format!("bench={} loglevel=5", self.glob),
        };
        let run = qemu::capture(&self.machine().arguments(&boot), LIMIT, &log, |_| false)?;
        let figures = figures::from_console(&run.console, self.mode);
        let complaint = match run.end {
            End::PoweredOff if figures.is_empty() => Some("measured nothing".into()),
            End::PoweredOff => run.console.lines().find(|line| line.starts_with("error: ")).map(String::from),
            end => Some(format!("{end:?}")),
        };
        match complaint {
            Some(why) => Err(Error::Measurement { session: self.name, why, log }),
            None => Ok(figures),
        }
    }

    /// Where the console goes.
    pub fn log(&self) -> Result<PathBuf> {
        let directory = workspace::target().join("report");
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        Ok(directory.join(format!("{}.log", self.name)))
    }

    /// The peer's machine: instructions counted, and an edu device whose mask is wide.
    fn machine(&self) -> Machine {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        Machine {
            cpu: "max,cntfrq=1000000000".into(),
            cpus: self.cpus.into(),
            memory: "4G".into(),
            devices: words("-device edu,dma_mask=0xffffffffffff"),
            extra: words("-icount shift=0,sleep=off -seed 1 -rtc base=2024-01-01,clock=vm"),
            ..Machine::default()
        }
    }
}
