//! `make bench`: measures Tessera in guest instructions, compares it with Linux, and writes a report.
//!
//! Under `-icount shift=0` with a counter of 1 GHz, a tick is an instruction: the figures are reproducible on
//! any host. Linux's figures are measured if the peer is available, or else read from the last ones stored in
//! `doc/`.

mod above_floor;
mod budget;
mod document;
mod figures;
mod floor;
mod growth;
mod neighbour;
mod peer;
mod plot;
mod report;
mod scaling;
mod session;
mod table;

use std::path::Path;

use crate::artifacts::{self, Artifacts};
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::{command, glob, qemu, tools, workspace};
use figures::Figure;
use peer::{Peer, PeerSource};
use report::BenchReport;
use session::{CONTENTION, EVENTS, GROWTH, MACHINES, OPERATIONS, Session, WALL};

/// The arguments of the verb.
pub const USAGE: &str = "[GLOB | --stored | --store-peer | --bless | --document]";
/// The help on them.
pub const HELP: &str = "\
  GLOB          names of benchmarks, separated by commas, with * and ?; next to Linux's stored figures
  --stored      all benchmarks, next to Linux's stored figures
  --store-peer  all benchmarks, and stores Linux's figures (PEER_LINUX is the directory of its benchmark)
  --bless       updates doc/budgets.tsv and the table in doc/performance.md
  --document    updates only that table, without measuring";
const OPTIONS: [&str; 4] = ["--stored", "--store-peer", "--bless", "--document"];
/// The kernel's benchmarks (`selftest/src/bench/mod.rs`).
const BENCHMARKS: [&str; 15] = [
    "floor",
    "alloc",
    "map_single",
    "map_sg",
    "map_pinned",
    "contention",
    "neighbour",
    "growth_size",
    "growth_live",
    "growth_streams",
    "frag_alloc",
    "growth_pieces",
    "boot",
    "mmap",
    "process",
];
/// A second run of [`OPERATIONS`], since instruction counts are reproducible.
const REPEATED: Session<'_> = Session { name: "repeated", ..OPERATIONS };
/// Boots for wall time, which varies.
const WALL_BOOTS: usize = 5;

/// Checks the budgets, the laws of growth, and the effect of faults on other devices. `cargo xtask test`
/// accepts these names.
pub const CHECKS: [(&str, Check); 3] =
    [("budgets", budget::check), ("growth", growth::check), ("neighbour", neighbour::check)];
type Check = fn(&Artifacts) -> Result<TestCounts>;

/// - no argument: measures, prints the table and writes the report;
/// - `--stored`: the same next to the peer's stored figures;
/// - `--store-peer`: the same, and stores the peer's figures;
/// - `--bless`: updates the budgets and the table in the documentation;
/// - `--document`: updates only the table, without measuring;
/// - names as `bench=` takes them: measures these on one CPU and prints their table.
pub fn bench(words: &[String]) -> Result<TestCounts> {
    check_words(words)?;
    tools::qemu()?;
    match words {
        [] => report(PeerSource::Run),
        [word] if word == "--stored" => report(PeerSource::Stored),
        [word] if word == "--store-peer" => report(PeerSource::RunAndStore),
        [word] if word == "--bless" => budget::bless(&artifacts::build()?),
        [word] if word == "--document" => document::update().map(|()| TestCounts::one(true)),
        [glob, ..] => selected(glob),
    }
}

fn check_words(words: &[String]) -> Result<()> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    match words {
        [_, second, ..] => Err(Error::Usage(format!("{second}: bench takes one argument, {USAGE}"))),
        [option] if option.starts_with('-') && !OPTIONS.contains(&option.as_str()) => {
            Err(Error::argument("option of bench", option, &list(&OPTIONS)))
        }
        [glob] if !glob.starts_with('-') => {
            let is_known = |pattern: &&str| BENCHMARKS.iter().any(|name| glob::matches(pattern, name));
            match glob.split(',').find(|pattern| !is_known(pattern)) {
                Some(pattern) => Err(Error::argument("benchmark", pattern, &list(&BENCHMARKS))),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The measurements that match `glob`, next to Linux's stored figures.
fn selected(glob: &str) -> Result<TestCounts> {
    let figures = Session { name: "selected", glob, ..OPERATIONS }.measure(&artifacts::build()?)?;
    print!("{}", table::text(&table::all(&figures, &peer::stored()?.figures)));
    Ok(TestCounts::one(true))
}

fn report(source: PeerSource) -> Result<TestCounts> {
    let built = artifacts::build()?;
    let events = EVENTS.measure(&artifacts::counting(&built)?)?;
    let own = measure(&built)?;
    let repeated = repeated(&own, &REPEATED.measure(&built)?);
    let directory = workspace::target().join("report");
    let peer = peer::figures(&directory, source)?;
    let rows = table::rows(&own, &peer.figures, &events);
    print!("{}", table::text(&rows));
    let scaling = scaling::of(&own, &peer.figures, peer.fresh);
    scaling.iter().for_each(|scaling| println!("{scaling}"));
    let (mut about, logs) = (about(&peer)?, logs()?);
    about.push(repeated);
    about.iter().for_each(|line| println!("{line}"));
    let page = BenchReport {
        own: &own,
        linux: &peer.figures,
        rows: &rows,
        scaling: &scaling,
        about: &about,
        logs: &logs,
    };
    write(&directory.join("index.html"), &page.html())?;
    Ok(TestCounts::one(true))
}

fn measure(built: &Artifacts) -> Result<Vec<Figure>> {
    let mut figures = OPERATIONS.measure(built)?;
    figures.extend(CONTENTION.measure(built)?);
    figures.extend(growth::measure(built)?);
    for _ in 0..WALL_BOOTS {
        figures.extend(WALL.measure(built)?);
    }
    Ok(figures)
}

/// The number of figures that are equal in both runs.
fn repeated(first: &[Figure], second: &[Figure]) -> String {
    let same = second.iter().filter(|figure| first.contains(figure)).count();
    format!("{same} of {} figures are identical in a second run", second.len())
}

fn write(page: &Path, html: &str) -> Result<()> {
    std::fs::write(page, html).map_err(Error::file("write", page))?;
    println!("{}", page.display());
    Ok(())
}

/// The consoles of this run, without the paths of QEMU's files.
fn logs() -> Result<Vec<(String, String)>> {
    let sessions = [OPERATIONS, EVENTS, CONTENTION, GROWTH, WALL].into_iter().chain(MACHINES);
    let root = format!("{}/", workspace::root().display());
    let read = |session: Session<'_>| {
        let path = session.log()?;
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Ok((session.name.to_owned(), text.replace(&root, "")))
    };
    sessions.map(read).collect()
}

/// The measured revision, the tools, and the origin of Linux's figures.
fn about(peer: &Peer) -> Result<Vec<String>> {
    let first = |program: &str, words: &[&str]| {
        let text = command::stdout_of(program, words).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    let root = workspace::root().display().to_string();
    let revision = first("git", &["-C", &root, "describe", "--always", "--dirty"]);
    let line =
        logs()?.first().map_or_else(String::new, |(_, log)| log.lines().next().unwrap_or_default().into());
    Ok(vec![
        format!("Tessera {} at {revision}, {}", env!("CARGO_PKG_VERSION"), first("rustc", &["--version"])),
        first(qemu::PROGRAM, &["--version"]),
        line,
        peer.source.clone(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmarks_are_the_kernels() {
        let path = workspace::root().join("selftest/src/bench/mod.rs");
        let text = std::fs::read_to_string(path).unwrap();
        let name = |line: &str| {
            let rest = line
                .trim()
                .strip_prefix("Bench { name: \"")
                .or(line.split_once("chosen.matches(\"").map(|p| p.1))?;
            rest.split('"').next().map(str::to_owned)
        };
        assert_eq!(text.lines().filter_map(name).collect::<Vec<_>>(), BENCHMARKS);
    }
}
