//! `make bench`: measures Tessera in guest instructions, puts Linux doing the same next to it, and writes a report.
//!
//! Under `-icount shift=0` with a counter of 1 GHz, a tick is an instruction: the figures repeat from run to run on any
//! host. Linux's come from a run of the peer where it is present beside the work tree, or else from the last ones stored
//! in `doc/`.

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
/// The same once more: instructions repeat.
const REPEATED: Session<'_> = Session { name: "repeated", ..OPERATIONS };
/// By the host's clock one boot says little.
const WALL_BOOTS: usize = 5;

/// Holds everything against the budgets, the laws of growth, and what faults may cost others. `make test` calls them by
/// these names.
pub const CHECKS: [(&str, Check); 3] =
    [("budgets", budget::check), ("growth", growth::check), ("neighbour", neighbour::check)];
type Check = fn(&Artifacts) -> Result<TestCounts>;

/// - without words: measures, prints the table and writes the report;
/// - `--stored`: the same next to the peer's stored figures;
/// - `--store-peer`: the same, and stores what the peer measured;
/// - `--bless`: writes the budgets and the table in the documentation anew; `--document`: only the table, without
///   measuring;
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

/// What matches `glob`, next to Linux's stored figures.
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

/// How many figures of the first run are the same in a second one.
fn repeated(first: &[Figure], second: &[Figure]) -> String {
    let same = second.iter().filter(|figure| first.contains(figure)).count();
    format!("{same} of {} figures are the same, to the instruction, in a second run", second.len())
}

fn write(page: &Path, html: &str) -> Result<()> {
    std::fs::write(page, html).map_err(Error::file("write", page))?;
    println!("{}", page.display());
    Ok(())
}

/// The consoles of this run. The paths of the files that QEMU was given are nobody's business.
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

/// What was measured, with what, and where Linux's figures come from.
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
