//! `cargo xtask inject`: fault injection over the self-tests. Each self-test of the checking build runs
//! repeatedly, each time with another failing operation; the report has the totals. `make check` runs some of
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::artifacts;
use crate::counts::TestCounts;
use crate::error::Result;
use crate::matrix::{CHECKING, Case};
use crate::{prepare, qemu, suite, tools, verbs, workspace};

/// The time limit of a machine in seconds. The number of injected failures is bounded by the kernel, not by
/// this.
const LIMIT: u64 = 3600;
/// Self-tests per machine.
const TOGETHER: usize = 8;
/// Self-tests that take minutes: each has its own machine, and they run first, so that both lanes end at the
/// same time.
const LONG: &[&str] = &[
    "programs.descriptor_exhaustion_is_recoverable",
    "programs.thread_exhaustion_is_recoverable",
    "programs.frame_exhaustion_is_recoverable",
    "programs.freed_memory_is_zeroed_on_reuse",
    "programs.kill_at_any_time_releases_all_resources",
    "programs.repeated_starts_and_exits_leak_nothing",
    "programs.quarantined_device_returns_eio",
    "dma.mappings_match_attributes",
    "streaming.many_small_mappings_do_not_overlap",
    "memory.allocation_drains_magazines_of_other_cpus",
];

/// Injects failures into the self-tests whose names contain one of the words; into all without words.
pub fn inject(words: &[String]) -> Result<TestCounts> {
    tools::qemu()?;
    let built = artifacts::build()?;
    let mut names = names(&built)?;
    verbs::check_names("self-test", words, &names)?;
    names.retain(|name| verbs::is_selected(name, words));
    let cases: Vec<Case> = groups(&names).enumerate().map(|(number, group)| case(number, &group)).collect();
    let counts = suite::matrix(&cases.iter().collect::<Vec<_>>(), &built)?;
    println!("{}", sum(cases.iter().filter_map(|case| std::fs::read_to_string(suite::log(case)).ok())));
    Ok(counts)
}

/// The self-tests of each machine.
fn groups(names: &[String]) -> impl Iterator<Item = Vec<&str>> {
    let (long, short): (Vec<&str>, Vec<&str>) =
        names.iter().map(String::as_str).partition(|name| LONG.contains(name));
    let short: Vec<_> = short.chunks(TOGETHER).map(<[_]>::to_vec).collect();
    long.into_iter().map(|name| vec![name]).chain(short)
}

/// The names of all self-tests, from a run without failures.
fn names(built: &artifacts::Artifacts) -> Result<Vec<String>> {
    let case = Case { append: "selftest inject=nothing lowmem=256M", ..CHECKING };
    let checking = artifacts::checking(built)?;
    std::fs::create_dir_all(workspace::logs())
        .map_err(crate::error::Error::file("create", &workspace::logs()))?;
    let log = workspace::logs().join("inject-names.log");
    let boot = prepare::boot(&case, &case.machine(), &checking, &log.with_extension(""))?;
    let run =
        qemu::capture(&case.machine().arguments(&boot), Duration::from_secs(LIMIT), &log, &[], |_| false)?;
    Ok(run.console.lines().filter_map(name_of).map(str::to_owned).collect())
}

/// The name in `ok 7 inject:dma.streams # ...`, unless the test is skipped.
fn name_of(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(" inject:")?.1.split_once(' ')?;
    (line.starts_with("ok ") && !rest.contains("SKIP")).then_some(name)
}

fn case(number: usize, tests: &[&str]) -> Case {
    let append = format!("selftest={} inject lowmem=128M", tests.join(","));
    let name = match tests {
        [test] => format!("inject-{test}"),
        _ => format!("inject-{number}"),
    };
    // Little memory, since some tests exhaust it. Leaked, since a case's strings are static.
    Case { name: leak(name), append: leak(append), limit: LIMIT, memory: "320M", ..CHECKING }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// Injected failures of a class, and the operations of that class.
#[derive(Clone, Copy, Default)]
struct InjectedCount {
    failed: u64,
    operations: u64,
}

/// The totals of each class, and the number of tests with operations that were not failed.
fn sum(consoles: impl Iterator<Item = String>) -> String {
    let (mut counts, mut tests, mut cut, mut paths_left) =
        (BTreeMap::<String, InjectedCount>::new(), 0, 0, 0);
    for console in consoles {
        let tried =
            console.lines().filter(|line| name_of(line).is_some()).filter_map(|line| line.split_once(" # "));
        for (_, tried) in tried {
            tests += 1;
            cut += usize::from(tried.contains(" of "));
            paths_left += usize::from(tried.contains("paths left"));
            for (class, count) in tried.split(", ").filter_map(class_of) {
                let of = counts.entry(class.to_owned()).or_default();
                (of.failed, of.operations) = (of.failed + count.failed, of.operations + count.operations);
            }
        }
    }
    let of = |count: &InjectedCount| format!("{} of {}", count.failed, count.operations);
    let all = counts.values().fold(InjectedCount::default(), |all, one| InjectedCount {
        failed: all.failed + one.failed,
        operations: all.operations + one.operations,
    });
    let each: Vec<String> = counts.iter().map(|(class, count)| format!("{class} {}", of(count))).collect();
    format!(
        "{tests} tests, {} operations failed: {}; {cut} tests did not fail every operation, {paths_left} not every call path",
        of(&all),
        each.join(", ")
    )
}

/// The class and the counts in `frames 18` or `frames 18 of 39`.
fn class_of(part: &str) -> Option<(&str, InjectedCount)> {
    let (class, count) = part.split_once(' ')?;
    let (failed, operations) = count.split_once(" of ").unwrap_or((count, count));
    Some((class, InjectedCount { failed: failed.parse().ok()?, operations: operations.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_summed_by_class() {
        let console = |line: &str| format!("1..1\n# a.b: frames 9\n{line}\n# totals: pass:1 fail:0 skip:0\n");
        let consoles = [
            console("ok 1 inject:a.b # frames 18 of 39, tables 9"),
            console("ok 1 inject:c.d # frames 1, tables 2 of 8, paths left"),
            console("ok 1 inject:e.f # SKIP no edu"),
            console("not ok 1 inject:g.h"),
        ];
        let summary = sum(consoles.into_iter());
        assert_eq!(
            summary,
            "2 tests, 30 of 57 operations failed: frames 19 of 40, tables 11 of 17; 2 tests did not fail every \
             operation, 1 not every call path"
        );
    }

    #[test]
    fn long_tests_are_self_tests() {
        let all = workspace::self_tests();
        let missing: Vec<_> = LONG.iter().filter(|name| !all.iter().any(|test| test == *name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn long_tests_run_alone_and_first() {
        let names: Vec<String> =
            (0..TOGETHER + 1).map(|n| format!("a.{n}")).chain([LONG[0].to_owned()]).collect();
        let groups: Vec<usize> = groups(&names).map(|group| group.len()).collect();
        assert_eq!(groups, [1, TOGETHER, 1]);
    }
}
