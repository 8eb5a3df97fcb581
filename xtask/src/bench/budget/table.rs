//! The table of budgets: a row for each measurement, a column for each counter.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::bench::figures::Key;

/// The event counters of each half, by the kernel's names.
const EVENTS: [&str; 7] = ["stores", "tables", "commands", "syncs", "mmio", "tlbis", "barriers"];
/// Of a live buffer: chunks, IOMMU page tables, heap bytes.
pub const HELD: [&str; 3] = ["chunks", "tables", "metadata"];
const KEYS: [&str; 5] = ["mode", "name", "size", "attrs", "count"];
const NOTE: &str =
    "# The maximum cost of each operation; see doc/performance.md. Written by `cargo xtask bench --bless`.\n";

/// The budgets of each measurement, by counter. Rows are in the order of measurement.
pub type Budgets = Vec<(Key, BudgetCosts)>;
/// Costs by the name of the counter.
pub type BudgetCosts = BTreeMap<String, u64>;

/// The names of the columns: instructions and events of the operation and of its inverse, and the resources
/// of a live buffer.
pub fn counters() -> Vec<String> {
    let halves = std::iter::once("ticks").chain(EVENTS);
    let halves = halves.flat_map(|name| ["alloc", "free"].map(|half| format!("{half}_{name}")));
    halves.chain(HELD.map(String::from)).collect()
}

/// Whether a counter has no tolerance; instructions and heap bytes have one.
pub fn is_exact(counter: &str) -> bool {
    !counter.ends_with("_ticks") && counter != "metadata"
}

/// The table as text.
pub fn write(budgets: &Budgets) -> String {
    let mut text = format!("{NOTE}{}\t{}\n", KEYS.join("\t"), counters().join("\t"));
    for (key, costs) in budgets {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}\t{}\t{}\t{}\t{}", key.mode, key.name, key.size, key.attrs, key.count);
        for counter in counters() {
            let _ = match costs.get(&counter) {
                Some(cost) => write!(text, "\t{cost}"),
                None => write!(text, "\t-"),
            };
        }
        text.push('\n');
    }
    text
}

/// Parses the output of [`write()`]; an error names the line.
pub fn read(text: &str) -> Result<Budgets, String> {
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.starts_with('#'));
    let heads: Vec<&str> = lines.next().unwrap_or_default().0.split('\t').collect();
    let row = |(line, number): (&str, usize)| row(&heads, line).ok_or(format!("line {number}: {line}"));
    lines.map(row).collect()
}

fn row(heads: &[&str], line: &str) -> Option<(Key, BudgetCosts)> {
    let cells: BTreeMap<&str, &str> = heads.iter().copied().zip(line.split('\t')).collect();
    let number = |head: &str| cells.get(head)?.parse().ok();
    let key = Key {
        mode: (*cells.get("mode")?).into(),
        name: (*cells.get("name")?).into(),
        size: number("size")?,
        attrs: (*cells.get("attrs")?).into(),
        count: number("count")?,
    };
    let mut costs = BudgetCosts::new();
    for (head, cell) in cells.iter().filter(|(head, cell)| !KEYS.contains(head) && **cell != "-") {
        costs.insert((*head).into(), cell.parse().ok()?);
    }
    Some((key, costs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { mode: "a".into(), name: name.into(), size: 4096, attrs: "0".into(), count: 0 }
    }

    #[test]
    fn a_written_table_is_read_back() {
        let costs =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(name, cost)| ((*name).into(), *cost)).collect();
        let budgets: Budgets = vec![
            (key("alloc"), costs(&[("alloc_ticks", 1000), ("free_ticks", 900), ("free_syncs", 1)])),
            (key("mmap"), costs(&[("alloc_ticks", 1500)])),
        ];
        assert_eq!(read(&write(&budgets)), Ok(budgets));
    }

    #[test]
    fn a_malformed_line_is_named() {
        let text = write(&vec![(key("alloc"), BudgetCosts::new())]).replace("4096", "many");
        assert!(read(&text).unwrap_err().starts_with("line 3: a\talloc\tmany"));
    }
}
