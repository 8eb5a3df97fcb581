//! `cargo xtask inject`: fail everything. Every self-test on the checking build in a machine of its own, again and again,
//! each time with another event failing, and at the end how many there were. Some hours; `make test` has a part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::artifacts;
use crate::error::Result;
use crate::matrix::{CHECKING, Case};
use crate::tally::Tally;
use crate::{prepare, qemu, suite, tools, workspace};

/// What a machine may take for one self-test.
const LIMIT: u64 = 3600;

/// Lets everything fail in the self-tests whose names contain one of the words; none: in all.
pub fn inject(words: &[String]) -> Result<Tally> {
    tools::qemu()?;
    let built = artifacts::build()?;
    let wanted = |name: &String| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let names: Vec<String> = names(&built)?.into_iter().filter(wanted).collect();
    let cases: Vec<Case> = names.iter().map(|name| case(name)).collect();
    let tally = suite::matrix(&cases.iter().collect::<Vec<_>>(), &built)?;
    println!("{}", sum(cases.iter().filter_map(|case| std::fs::read_to_string(suite::log(case)).ok())));
    Ok(tally)
}

/// The names of all self-tests, from a run in which nothing is to fail.
fn names(built: &artifacts::Artifacts) -> Result<Vec<String>> {
    let case = Case { append: "selftest inject=nothing lowmem=256M", ..CHECKING };
    let checking = artifacts::checking(built)?;
    std::fs::create_dir_all(workspace::logs())
        .map_err(crate::error::Error::file("create", &workspace::logs()))?;
    let log = suite::log(&case);
    let boot = prepare::boot(&case, &case.machine(), &checking, &log.with_extension(""))?;
    let run = qemu::capture(&case.machine().arguments(&boot), Duration::from_secs(LIMIT), &log, |_| false)?;
    Ok(run.console.lines().filter_map(name_of).map(str::to_owned).collect())
}

/// The name in `ok 7 inject:dma.streams # ...`, unless the test is skipped.
fn name_of(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(" inject:")?.1.split_once(' ')?;
    (line.starts_with("ok ") && !rest.contains("SKIP")).then_some(name)
}

fn case(name: &str) -> Case {
    let append = format!("selftest={name} inject lowmem=256M");
    // As long as the tool runs, like those of the table.
    Case { name: leak(format!("inject-{name}")), append: leak(append), limit: LIMIT, ..CHECKING }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// How many failures there were of each class, and in how many tests some were left out.
fn sum(consoles: impl Iterator<Item = String>) -> String {
    let (mut counts, mut cut) = (BTreeMap::<String, u64>::new(), 0);
    for console in consoles {
        let tried =
            console.lines().filter(|line| name_of(line).is_some()).filter_map(|line| line.split_once(" # "));
        for (_, tried) in tried {
            cut += usize::from(tried.contains(" of about "));
            for (class, count) in tried.split(", ").filter_map(|part| part.split_once(' ')) {
                let count = count.split(' ').next().and_then(|count| count.parse::<u64>().ok());
                *counts.entry(class.to_owned()).or_default() += count.unwrap_or(0);
            }
        }
    }
    let all: u64 = counts.values().sum();
    let each: Vec<String> = counts.iter().map(|(class, count)| format!("{class} {count}")).collect();
    format!("{all} failures: {}; in {cut} tests not every event", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_added_up() {
        let console = |line: &str| format!("1..1\n# a.b: frames 9\n{line}\n# totals: pass:1 fail:0 skip:0\n");
        let consoles = [
            console("ok 1 inject:a.b # frames 18 of about 39, tables 9"),
            console("ok 1 inject:c.d # frames 1, tables 0"),
            console("ok 1 inject:e.f # SKIP no edu"),
            console("not ok 1 inject:g.h"),
        ];
        let told = sum(consoles.into_iter());
        assert_eq!(told, "28 failures: frames 19, tables 9; in 1 tests not every event");
    }
}
