//! `make bench`: measures Tessera in guest instructions, compares it with Linux, and writes a report.
//!
//! Under `-icount shift=0` with a counter of 1 GHz, a tick is an instruction: the figures are reproducible on any host.
//! Linux's figures are measured if the peer is available, or else read from the last ones stored in `doc/`.

mod budget;
mod document;
mod figures;
mod floor;
mod growth;
mod neighbour;
mod peer;
mod plot;
mod report;
mod rest;
mod scaling;
mod session;
mod table;

use std::path::Path;

use crate::artifacts::{self, Artifacts};
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::{command, qemu, tools, workspace};
use figures::Figure;
use peer::{Peer, Wanted};
use report::BenchReport;
use session::{CONTENTION, EVENTS, GROWTH, MACHINES, OPERATIONS, Session, WALL};

const USAGE: &str = "usage: cargo xtask bench [GLOB | --bless | --document | --stored | --store-peer]";
/// The same again: instructions are reproducible.
const REPEATED: Session<'_> = Session { name: "repeated", ..OPERATIONS };
/// A single boot says little about wall time.
const WALL_BOOTS: usize = 5;

/// Checks the budgets, the laws of growth, and the effect of faults on other devices. `cargo xtask test` accepts these names.
pub const CHECKS: [(&str, Check); 3] =
    [("budgets", budget::check), ("growth", growth::check), ("neighbour", neighbour::check)];
type Check = fn(&Artifacts) -> Result<TestCounts>;

/// - without words: measures, prints the table and writes the report;
/// - `--stored`: the same next to the peer's stored figures;
/// - `--store-peer`: the same, and stores the peer's figures;
/// - `--bless`: updates the budgets and the table in the documentation; `--document`: only the table, without measuring;
/// - names as `bench=` takes them: measures these on one CPU and prints their table.
pub fn bench(words: &[String]) -> Result<TestCounts> {
    tools::qemu()?;
    match words {
        [] => report(Wanted::Fresh),
        [word] if word == "--stored" => report(Wanted::Last),
        [word] if word == "--store-peer" => report(Wanted::Stored),
        [word] if word == "--bless" => budget::bless(&artifacts::build()?),
        [word] if word == "--document" => document::update().map(|()| TestCounts::one(true)),
        [glob] if !glob.starts_with('-') => some(glob),
        _ => Err(Error::Usage(USAGE)),
    }
}

/// The measurements that match `glob`, next to Linux's stored figures.
fn some(glob: &str) -> Result<TestCounts> {
    let figures = Session { name: "some", glob, ..OPERATIONS }.measure(&artifacts::build()?)?;
    print!("{}", table::text(&table::all(&figures, &peer::stored()?.figures)));
    Ok(TestCounts::one(true))
}

fn report(wanted: Wanted) -> Result<TestCounts> {
    let built = artifacts::build()?;
    let events = EVENTS.measure(&artifacts::counting(&built)?)?;
    let own = measure(&built)?;
    let repeated = repeated(&own, &REPEATED.measure(&built)?);
    let directory = workspace::target().join("report");
    let peer = peer::figures(&directory, wanted)?;
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
    format!("{same} of {} figures are the same, to the instruction, in a second run", second.len())
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
        let text = command::question(program, words).unwrap_or_default();
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
