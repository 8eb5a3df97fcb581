//! `make bench`: measures Tessera in guest instructions, puts Linux doing the same next to it, and writes a report.
//!
//! Under `-icount shift=0` with a counter of 1 GHz, a tick is an instruction: the figures repeat from run to run on any
//! host. Linux's come from a run of the peer where it is present beside the work tree, or else from the last ones stored
//! in `doc/`.

mod figures;
mod floor;
mod peer;
mod plot;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::artifacts::{self, Artifacts};
use crate::error::{Error, Result};
use crate::machine::{Boot, Entry, Machine};
use crate::qemu::{self, End};
use crate::tally::Tally;
use crate::{tools, workspace};
use figures::Figure;

/// One CPU, everything; and four, for what they do at the same time.
const MODES: [Mode; 2] = [
    Mode { name: "a", cpus: "1", append: "bench loglevel=5" },
    Mode { name: "c", cpus: "4", append: "bench=contention loglevel=5" },
];
/// A run takes about a minute on a free host.
const LIMIT: Duration = Duration::from_secs(600);

/// A machine to measure on; the names are the peer's.
struct Mode {
    name: &'static str,
    cpus: &'static str,
    append: &'static str,
}

/// Measures, prints the table and writes the report. A measurement that is missing is a failure.
pub fn bench() -> Result<Tally> {
    tools::qemu()?;
    let built = artifacts::build()?;
    let directory = workspace::target().join("report");
    std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    let mut tally = Tally::default();
    let mut figures = Vec::new();
    for mode in &MODES {
        let found = mode.measure(&built, &directory)?;
        tally += Tally::one(!found.is_empty());
        figures.extend(found);
    }
    let peer = peer::figures(&directory)?;
    println!("{}", peer.source);
    print!("{}", table::text(&figures, &peer.figures));
    let page = directory.join("index.html");
    let html = report::html(&figures, &peer, &versions());
    std::fs::write(&page, html).map_err(Error::file("write", &page))?;
    println!("{}", page.display());
    Ok(tally)
}

impl Mode {
    /// Boots and reads what the console says; nothing if the run did not end as it should.
    fn measure(&self, built: &Artifacts, directory: &Path) -> Result<Vec<Figure>> {
        let log = self.log(directory);
        println!("measuring on {} CPU(s); the console goes to {}", self.cpus, log.display());
        let boot = Boot {
            entry: Entry::Kernel(built.image.clone()),
            initramfs: Some(built.initramfs.clone()),
            append: self.append.into(),
        };
        let run = qemu::capture(&self.machine().arguments(&boot), LIMIT, &log, |_| false)?;
        if run.end != End::PoweredOff {
            println!("mode {}: the run ended with {:?}", self.name, run.end);
            return Ok(Vec::new());
        }
        Ok(figures::from_console(&run.console, self.name))
    }

    fn log(&self, directory: &Path) -> PathBuf {
        directory.join(format!("mode-{}.log", self.name))
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

/// What the figures were measured with.
fn versions() -> String {
    let first = |program: &str| {
        let text = crate::command::question(program, &["--version"]).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    format!("{}; {}", first(qemu::PROGRAM), first("rustc"))
}
