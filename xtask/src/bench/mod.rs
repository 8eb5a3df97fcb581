//! `make bench`: measures Tessera in guest instructions, puts Linux doing the same next to it, and writes a report.
//!
//! Under `-icount shift=0` with a counter of 1 GHz, a tick is an instruction: the figures repeat from run to run on any
//! host. Linux's come from a run of the peer where it is present beside the work tree, or else from the last ones stored
//! in `doc/`.

pub mod budget;
mod figures;
mod floor;
mod peer;
mod plot;
mod report;
mod session;
mod table;

use crate::artifacts;
use crate::error::{Error, Result};
use crate::tally::Tally;
use crate::{qemu, tools, workspace};
use session::{CONTENTION, OPERATIONS};

/// `bench`: measures, prints the table and writes the report. `bench --bless`: writes the budgets anew.
pub fn bench(words: &[String]) -> Result<Tally> {
    tools::qemu()?;
    match words {
        [] => report(),
        [word] if word == "--bless" => budget::bless(&artifacts::build()?),
        _ => Err(Error::Usage("usage: cargo xtask bench [--bless]")),
    }
}

fn report() -> Result<Tally> {
    let built = artifacts::build()?;
    let mut figures = Vec::new();
    for session in [OPERATIONS, CONTENTION] {
        figures.extend(session.measure(&built)?);
    }
    let directory = workspace::target().join("report");
    let peer = peer::figures(&directory)?;
    println!("{}", peer.source);
    print!("{}", table::text(&figures, &peer.figures));
    let page = directory.join("index.html");
    let html = report::html(&figures, &peer, &versions());
    std::fs::write(&page, html).map_err(Error::file("write", &page))?;
    println!("{}", page.display());
    Ok(Tally::one(true))
}

/// What the figures were measured with.
fn versions() -> String {
    let first = |program: &str| {
        let text = crate::command::question(program, &["--version"]).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    format!("{}; {}", first(qemu::PROGRAM), first("rustc"))
}
