//! The table in `doc/performance.md`, generated from the budgets and from Linux's stored figures.

use std::path::PathBuf;

use super::figures::{Figure, Key};
use super::table::{Row, grouped, rows};
use super::{budget, peer};
use crate::error::{Error, Result};
use crate::workspace;

const START: &str = "<!-- figures: written by `cargo xtask bench --bless` -->\n";
const END: &str = "<!-- end of figures -->\n";
pub const NKM: &str = "NO_KERNEL_MAPPING";
const SINGLE: &str = "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING";

/// A line of the table: its title, and the key of its measurement.
const LINES: [(&str, &str, u64, &str); 11] = [
    ("4 KiB, `NO_KERNEL_MAPPING`", "alloc", 4 << 10, NKM),
    ("64 KiB", "alloc", 64 << 10, NKM),
    ("1 MiB", "alloc", 1 << 20, NKM),
    ("2 MiB", "alloc", 2 << 20, NKM),
    ("16 MiB", "alloc", 16 << 20, NKM),
    ("256 MiB", "alloc", 256 << 20, NKM),
    ("256 MiB, memory in single frames", "frag_alloc", 256 << 20, SINGLE),
    ("`map_single` / unmap 4 KiB", "map_single", 4 << 10, "0"),
    ("`map_sg` / unmap 256 scattered pages", "map_sg", 1 << 20, "256x4K"),
    ("mmap / munmap of 4 KiB, seen from the program", "mmap", 4 << 10, NKM),
    ("mmap / munmap of 256 MiB", "mmap", 256 << 20, NKM),
];
/// A line of the table of a CPU with FEAT_MOPS.
const MOPS_LINES: [(&str, u64); 4] =
    [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20), ("256 MiB", 256 << 20)];
/// A line of the table of processes: its title, and the name and the attributes of its measurement.
const PROCESS_LINES: [(&str, &str, &str); 9] = [
    ("`getppid`", "floor_syscall", "getppid"),
    ("write / read of an eventfd", "eventfd", "write_read"),
    ("write / read of a byte in a pipe", "pipe", "write_read"),
    ("mmap / munmap of 4 KiB of anonymous memory", "floor_mmap", "anonymous_untouched"),
    ("first write to a page, mean over 16 MiB / its munmap", "anonymous", "pages"),
    ("first write to each 2 MiB of `MADV_HUGEPAGE` / their munmap", "anonymous", "blocks"),
    ("fork, exit and wait", "fork", "exit_wait"),
    ("vfork, execve, exit and wait, the smallest program", "exec", "smallest"),
    ("the same, a static program", "exec", "static"),
];
/// A line of the table of several CPUs.
const CPUS: [(&str, &str); 2] = [
    ("64 KiB alloc + free, 1 -> 4 CPUs, per operation of all", "alloc_64K_nkm"),
    ("`map_single` + unmap, 1 -> 4 CPUs", "map_single_4K"),
];

/// The cost of two readings of the counter, with nothing between them.
const TIMER: u64 = 2;
/// The floor of these: a single CMD_SYNC, with which each operation ends.
const SYNC: &str = "sync";

/// Updates the table.
pub fn update() -> Result<()> {
    let path = path();
    let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let (before, _, after) = parts(&text).ok_or_else(|| missing(&path))?;
    let text = format!("{before}{START}{}{END}{after}", table()?);
    std::fs::write(&path, text).map_err(Error::file("write", &path))
}

fn path() -> PathBuf {
    workspace::root().join("doc/performance.md")
}

fn missing(path: &std::path::Path) -> Error {
    Error::Missing(format!("{}: the table is not between these lines: {START}{END}", path.display()))
}

/// The text before the table, the table, and the text after it.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(START)?;
    let (table, after) = rest.split_once(END)?;
    Some((before, table, after))
}

fn table() -> Result<String> {
    let (own, linux) = (budget::figures()?, peer::stored()?);
    let rows = rows(&own, &linux.figures, &own);
    let mut text = format!(
        "{}.\n\n| | Tessera | Linux | times | noncontiguous | floor | above the floor |\n|---|--:|--:|--:|--:|--:|---|\n",
        linux.source
    );
    for (title, name, size, attrs) in LINES {
        let is = |row: &&Row<'_>| {
            let key = &row.own.key;
            (key.name.as_str(), key.size, key.attrs.as_str()) == (name, size, attrs)
        };
        text += &rows.iter().find(is).map(|row| line(title, row)).unwrap_or_default();
    }
    for (title, work) in CPUS {
        let (tessera, linux) = (one_to_four(&own, work), one_to_four(&linux.figures, work));
        text += &format!("| {title} | {tessera} | {linux} | | | {} | |\n", one_to_four(&own, SYNC));
    }
    text += "\nThe same allocations on `-cpu max`, which has FEAT_MOPS:\n\n| | Tessera |\n|---|--:|\n";
    for (title, size) in MOPS_LINES {
        let cost = with_mops(&own, |key| key.name == "alloc" && key.size == size);
        text += &format!("| {title}, `{NKM}` | {cost} |\n");
    }
    text += "\nProcesses on the same CPU:\n\n| | Tessera |\n|---|--:|\n";
    for (title, name, attrs) in PROCESS_LINES {
        let cost = with_mops(&own, |key| key.name == name && key.attrs == attrs);
        text += &format!("| {title} | {cost} |\n");
    }
    Ok(text)
}

/// The cost of a measurement on a CPU with FEAT_MOPS; of an operation without an inverse, that alone.
fn with_mops(own: &[Figure], is: impl Fn(&Key) -> bool) -> String {
    let found = own.iter().find(|figure| figure.key.mode == "m" && is(&figure.key));
    found.map_or_else(String::new, |figure| match figure.free {
        0..=TIMER => grouped(figure.alloc),
        free => format!("{} / {}", grouped(figure.alloc), grouped(free)),
    })
}

fn line(title: &str, row: &Row<'_>) -> String {
    let cells = row.cells();
    let floor =
        row.floor.map_or_else(String::new, |(alloc, free)| format!("{} / {}", grouped(alloc), grouped(free)));
    format!(
        "| {title} | {} | {} | {} | {} | {floor} | {} |\n",
        cells[3], cells[4], cells[5], cells[6], row.above_floor
    )
}

fn one_to_four(figures: &[Figure], work: &str) -> String {
    let cost = |count| {
        let is = |figure: &&Figure| {
            let key = &figure.key;
            key.mode == "c" && key.name == "contention" && key.attrs == work && key.count == count
        };
        figures.iter().find(is).map_or_else(String::new, |figure| grouped(figure.alloc))
    };
    format!("{} -> {}", cost(1), cost(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_matches_the_budgets() {
        let text = std::fs::read_to_string(path()).unwrap();
        let (_, written, _) = parts(&text).expect("the lines around the table");
        assert_eq!(written, table().unwrap(), "`cargo xtask bench --document` updates it");
    }

    #[test]
    fn every_line_of_the_table_has_figures() {
        let table = table().unwrap();
        assert_eq!(
            table.lines().filter(|line| line.starts_with("| ")).count(),
            3 + LINES.len() + CPUS.len() + MOPS_LINES.len() + PROCESS_LINES.len()
        );
        assert!(!table.contains("|  |  |"), "{table}");
    }
}
