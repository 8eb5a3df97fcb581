//! Linux's figures: measured in this run, or stored.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::figures::{Figure, from_table};
use super::session::CPU;
use crate::command;
use crate::error::{Error, Result};
use crate::workspace;

/// The peer's modes, with their conditions: mode `b` measures only contention, on two CPUs.
const MODES: [(&str, &[(&str, &str)]); 3] =
    [("a", &[]), ("c", &[]), ("b", &[("PEER_MASK", "0x10"), ("PEER_SMP_B", "2"), ("PEER_RUNS_B", "3")])];
/// The environment variable with the directory of the peer, which has a script `run` for each mode.
const DIRECTORY: &str = "PEER_LINUX";
/// The time limits in seconds of a boot, and of a mode with its builds and downloads.
const BOOT_LIMIT: &str = "900";
const MODE_LIMIT: &str = "2400";
const HEADS: &str = "mode\ttest\tsize\tattrs\tthreads\talloc\tfree\tchunks\n";

/// Linux's figures and their origin.
pub struct Peer {
    /// The origin in words.
    pub source: String,
    pub figures: Vec<Figure>,
    /// Whether they were measured in this run.
    pub fresh: bool,
}

/// The origin of Linux's figures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerSource {
    /// A run, if `PEER_LINUX` is set.
    Run,
    /// A run, whose figures are then stored in `doc/`.
    RunAndStore,
    /// The last stored run.
    Stored,
}

/// Runs the peer, if `PEER_LINUX` is set and `source` is a run; otherwise, or if it fails, returns the stored
/// figures.
pub fn figures(directory: &Path, source: PeerSource) -> Result<Peer> {
    let Some(peer) = std::env::var_os(DIRECTORY).filter(|_| source != PeerSource::Stored) else {
        return stored();
    };
    let script = Path::new(&peer).join("run");
    let results = directory.join("peer");
    match run(&script, &results) {
        Ok(peer) if source == PeerSource::RunAndStore => store(&peer).map(|()| peer),
        Ok(peer) => Ok(peer),
        Err(error) if source == PeerSource::Run => {
            println!("the peer failed ({error}); using the stored figures");
            stored()
        }
        Err(error) => Err(error),
    }
}

fn run(script: &Path, results: &Path) -> Result<Peer> {
    let mut figures = Vec::new();
    for (mode, special) in MODES {
        println!("measuring Linux, mode {mode}: one or two minutes, longer with a download");
        let mut line = Command::new("timeout");
        line.arg(MODE_LIMIT).arg(script).arg(mode).env("PEER_POLICIES", "strict").env("PEER_RUNS_A", "1");
        line.env("PEER_CPU", CPU).env("PEER_TIMEOUT", BOOT_LIMIT).envs(special.iter().copied());
        line.env("PEER_BUILD", workspace::target().join("peer")).env("PEER_OUT", results);
        command::run(&mut line)?;
        figures.extend(from_table(&read(&results.join(format!("mode-{mode}-strict.tsv")))?));
    }
    // Contention is not measured on one CPU.
    figures.retain(|figure| figure.key.name != "contention" || figure.key.mode != "a");
    Ok(Peer { source: origin(&read(&results.join("versions.txt"))?), figures, fresh: true })
}

/// The origin, from the peer's `versions.txt`.
fn origin(versions: &str) -> String {
    let lines: Vec<&str> = versions.lines().collect();
    let starting = |word: &str| lines.iter().find(|line| line.starts_with(word)).copied().unwrap_or_default();
    let kernel = starting("kernel ").trim_start_matches("kernel ").split(':').next().unwrap_or_default();
    let qemu = starting("QEMU ").split_whitespace().nth(3).unwrap_or_default();
    let date = lines.last().copied().unwrap_or_default();
    format!("Linux {kernel} (Debian arm64) on -cpu {CPU} of QEMU {qemu}, iommu.strict=1, measured {date}")
}

/// Stores the table for machines without the peer.
fn store(peer: &Peer) -> Result<()> {
    let mut text = format!("# {}; guest instructions, medians.\n{HEADS}", peer.source);
    // Wall time is not comparable between runs.
    let counted = peer.figures.iter().filter(|figure| figure.key.mode != "b");
    for Figure { key, alloc, free, chunks, .. } in counted {
        let (mode, name, size, attrs, count) = (&key.mode, &key.name, key.size, &key.attrs, key.count);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mode}\t{name}\t{size}\t{attrs}\t{count}\t{alloc}\t{free}\t{chunks}");
    }
    let path = stored_path();
    std::fs::write(&path, text).map_err(Error::file("write", &path))
}

/// The stored figures.
pub fn stored() -> Result<Peer> {
    let table = read(&stored_path())?;
    let origin = table.lines().next().unwrap_or_default().trim_start_matches("# ");
    let origin = origin.split(';').next().unwrap_or_default();
    Ok(Peer { source: format!("{origin} (stored figures)"), figures: from_table(&table), fresh: false })
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
        let four = |figure: &&Figure| (figure.key.name.as_str(), figure.key.count) == ("contention", 4);
        assert_eq!(peer.figures.iter().filter(four).count(), 3);
        assert!(peer.figures.iter().any(|figure| figure.key.name == "map_sg" && figure.alloc > 100_000));
    }

    #[test]
    fn the_origin_is_the_peers_description() {
        let versions = "kernel 6.12.117+deb12: Linux version 6.12.117\nQEMU emulator version 10.0.2 (Debian)\n\
                        gcc 12\ncpu max, memory 4G\n2026-11-22\n";
        let expected = "Linux 6.12.117+deb12 (Debian arm64) on -cpu neoverse-n2 of QEMU 10.0.2, iommu.strict=1, \
                        measured 2026-11-22";
        assert_eq!(origin(versions), expected);
    }
}
