//! Linux's figures: measured in this go, or those stored.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::figures::{Figure, from_table};
use crate::command;
use crate::error::{Error, Result};
use crate::workspace;

/// Modes that the peer is run in.
const MODES: [&str; 2] = ["a", "c"];

/// Linux's figures and where they come from.
pub struct Peer {
    /// A sentence for people.
    pub source: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// Runs the peer if it lies beside the work tree, unless `PEER=stored`; the stored figures serve if there is none or it
/// fails.
pub fn figures(directory: &Path) -> Result<Peer> {
    let script = workspace::root().join("../shared/peer-linux/run");
    if std::env::var("PEER").is_ok_and(|value| value == "stored") || !script.exists() {
        return stored();
    }
    match run(&script, &directory.join("peer")) {
        Ok(peer) => Ok(peer),
        Err(error) => {
            println!("the peer did not run: {error}");
            stored()
        }
    }
}

fn run(script: &Path, results: &Path) -> Result<Peer> {
    println!("measuring Linux; this takes some minutes");
    let mut figures = Vec::new();
    for mode in MODES {
        let mut line = Command::new(script);
        line.arg(mode).env("PEER_POLICIES", "strict").env("PEER_RUNS_A", "1");
        line.env("PEER_BUILD", workspace::target().join("peer")).env("PEER_OUT", results);
        command::run(&mut line)?;
        figures.extend(from_table(&read(&results.join(format!("mode-{mode}-strict.tsv")))?));
    }
    // What four CPUs do at a time is measured in mode c.
    figures.retain(|figure| figure.key.name != "contention" || figure.key.mode == "c");
    Ok(Peer { source: "Linux: measured in this run".into(), figures })
}

fn stored() -> Result<Peer> {
    let table = read(&stored_path())?;
    let origin = table.lines().next().unwrap_or_default().trim_start_matches("# ");
    Ok(Peer { source: format!("Linux: stored figures ({origin})"), figures: from_table(&table) })
}

fn stored_path() -> PathBuf {
    workspace::root().join("doc/peer-linux.tsv")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_figures_can_be_read() {
        let peer = stored().unwrap();
        assert!(peer.source.contains("measured 2026"), "{}", peer.source);
        let four = |figure: &&Figure| (figure.key.name.as_str(), figure.key.threads) == ("contention", 4);
        assert_eq!(peer.figures.iter().filter(four).count(), 3);
        assert!(peer.figures.iter().any(|figure| figure.key.name == "map_sg" && figure.alloc == 175_512));
    }
}
