//! Budgets: the limit of each operation's cost, checked on every change.
//!
//! Event counts (descriptors written, commands, barriers ...) are exact, so one more is a failure.
//! Instructions and heap bytes have a tolerance of 5 %: they are reproducible, but code generation moves them
//! a little. A lower cost is reported, not refused: the budget can be lowered (`cargo xtask bench --bless`).

mod table;

use std::path::PathBuf;

use super::document;
use super::figures::{Figure, Key};
use super::session::{CONTENTION, EVENTS, MOPS, OPERATIONS};
use super::table::size;
use crate::artifacts::{self, Artifacts};
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::workspace;
use table::{BudgetCosts, Budgets};

/// The command that updates the table.
const BLESS: &str = "cargo xtask bench --bless";
/// The tolerance of instructions and heap bytes is the budget divided by this.
const TOLERANCE_DIVISOR: u64 = 20;

/// Measures and compares with the table. Each row is a test.
pub fn check(built: &Artifacts) -> Result<TestCounts> {
    let (budgets, measured) = (read()?, measure(built)?);
    let mut counts = TestCounts::default();
    for result in compare(&budgets, &measured) {
        counts += TestCounts::named(format!("budget: {}", result.worse.join("; ")), result.worse.is_empty());
        result.worse.iter().for_each(|line| println!("FAIL budget: {line}"));
        result.better.iter().for_each(|line| println!("     {line}; lower it: {BLESS}"));
    }
    println!("budgets: {counts}");
    Ok(counts)
}

/// Measures, prints the changes, and updates the table.
pub fn bless(built: &Artifacts) -> Result<TestCounts> {
    let measured = measure(built)?;
    for result in compare(&read().unwrap_or_default(), &measured) {
        result.worse.iter().chain(&result.better).for_each(|line| println!("{line}"));
    }
    let path = path();
    std::fs::write(&path, table::write(&measured)).map_err(Error::file("write", &path))?;
    println!("{} rows in {}", measured.len(), path.display());
    document::update()?;
    Ok(TestCounts::one(true))
}

fn path() -> PathBuf {
    workspace::root().join("doc/budgets.tsv")
}

fn read() -> Result<Budgets> {
    let path = path();
    let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    table::read(&text).map_err(|reason| Error::Missing(format!("{}: {reason}", path.display())))
}

/// Instructions of the product, events of a kernel with event counters.
fn measure(built: &Artifacts) -> Result<Budgets> {
    let counting = artifacts::counting(built)?;
    let events = EVENTS.measure(&counting)?;
    let mut figures = OPERATIONS.measure(built)?;
    figures.extend(CONTENTION.measure(built)?);
    // Only the zeroing of an allocation differs, so one attribute is enough.
    let is_other = |figure: &Figure| figure.key.name == "alloc" && figure.key.attrs != document::NKM;
    figures.extend(MOPS.measure(built)?.into_iter().filter(|figure| !is_other(figure)));
    Ok(figures.iter().map(|figure| (figure.key.clone(), costs(figure, &events))).collect())
}

/// The instructions of `figure`, and the events of the same measurement.
fn costs(figure: &Figure, events: &[Figure]) -> BudgetCosts {
    let ticks = [("alloc_ticks", figure.alloc), ("free_ticks", figure.free)];
    let counted = events.iter().find(|events| events.key == figure.key);
    let of_events = |counter: &String| Some((counter.clone(), *counted?.fields.get(counter)?));
    let mut costs: BudgetCosts =
        table::counters().iter().filter(|name| !name.ends_with("_ticks")).filter_map(of_events).collect();
    costs.extend(ticks.map(|(name, count)| (name.to_owned(), count)));
    costs
        .extend(table::HELD.iter().filter_map(|name| Some(((*name).to_owned(), *figure.fields.get(*name)?))));
    costs
}

/// The budgets as figures.
pub fn figures() -> Result<Vec<Figure>> {
    let figure = |(key, costs): (Key, BudgetCosts)| {
        let cost = |name| costs.get(name).copied().unwrap_or(0);
        Figure {
            key,
            alloc: cost("alloc_ticks"),
            free: cost("free_ticks"),
            chunks: cost("chunks"),
            fields: costs,
        }
    };
    Ok(read()?.into_iter().map(figure).collect())
}

/// The result of a row.
#[derive(Default)]
struct BudgetResult {
    /// The failures.
    worse: Vec<String>,
    /// The costs that are below their budget.
    better: Vec<String>,
}

fn compare(budgets: &Budgets, measured: &Budgets) -> Vec<BudgetResult> {
    let find = |rows: &Budgets, key: &Key| rows.iter().find(|row| row.0 == *key).map(|row| row.1.clone());
    let mut results: Vec<BudgetResult> = budgets
        .iter()
        .map(|(key, budget)| match find(measured, key) {
            Some(costs) => evaluate(key, budget, &costs),
            None => BudgetResult {
                worse: vec![format!("{}: no longer measured; {BLESS}", name(key))],
                ..BudgetResult::default()
            },
        })
        .collect();
    let new = measured.iter().filter(|(key, _)| find(budgets, key).is_none());
    results.extend(new.map(|(key, _)| BudgetResult {
        worse: vec![format!("{}: has no budget; {BLESS}", name(key))],
        ..BudgetResult::default()
    }));
    results
}

fn evaluate(key: &Key, budget: &BudgetCosts, costs: &BudgetCosts) -> BudgetResult {
    let mut result = BudgetResult::default();
    for (counter, &old) in budget {
        let Some(&new) = costs.get(counter) else {
            result.worse.push(format!("{}: {counter} is no longer counted; {BLESS}", name(key)));
            continue;
        };
        let tolerance = if table::is_exact(counter) { 0 } else { (old / TOLERANCE_DIVISOR).max(1) };
        let line = || format!("{}: {counter} was {old}, is {new}", name(key));
        if new > old + tolerance {
            result.worse.push(line());
        } else if new + tolerance < old {
            result.better.push(line());
        }
    }
    result
}

/// A row's name in the report.
fn name(key: &Key) -> String {
    let threads = if key.count > 0 { format!(" x{}", key.count) } else { String::new() };
    let mops = if key.mode == "m" { " with FEAT_MOPS" } else { "" };
    format!("{}{threads} {} {}{mops}", key.name, size(key.size), key.attrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, costs: &[(&str, u64)]) -> Budgets {
        let key = Key { mode: "a".into(), name: name.into(), size: 4096, attrs: "0".into(), count: 0 };
        vec![(key, costs.iter().map(|(name, cost)| ((*name).into(), *cost)).collect())]
    }

    #[test]
    fn one_event_more_fails_and_one_less_is_reported() {
        let budget = rows("alloc", &[("free_syncs", 2), ("alloc_stores", 16)]);
        let result = &compare(&budget, &rows("alloc", &[("free_syncs", 3), ("alloc_stores", 15)]))[0];
        assert_eq!(result.worse, ["alloc 4 KiB 0: free_syncs was 2, is 3"]);
        assert_eq!(result.better, ["alloc 4 KiB 0: alloc_stores was 16, is 15"]);
    }

    #[test]
    fn instructions_have_a_tolerance_of_five_percent() {
        for (new, worse, better) in [(1050, 0, 0), (1051, 1, 0), (950, 0, 0), (949, 0, 1)] {
            let results =
                compare(&rows("alloc", &[("alloc_ticks", 1000)]), &rows("alloc", &[("alloc_ticks", new)]));
            assert_eq!((results[0].worse.len(), results[0].better.len()), (worse, better), "{new}");
        }
    }

    #[test]
    fn rows_and_counters_without_a_counterpart_fail() {
        let (one, other) = (rows("alloc", &[("free_syncs", 1)]), rows("map_sg", &[]));
        let lines: Vec<String> = compare(&one, &other).into_iter().flat_map(|result| result.worse).collect();
        assert!(lines[0].starts_with("alloc 4 KiB 0: no longer measured"), "{lines:?}");
        assert!(lines[1].starts_with("map_sg 4 KiB 0: has no budget"), "{lines:?}");
        assert!(compare(&one, &rows("alloc", &[]))[0].worse[0].contains("free_syncs is no longer counted"));
    }
}
