//! The tests that boot no kernel: `cargo test` over the workspace, counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::command::{cargo, shown, stdout_of};
use crate::counts::{self, TestCounts};
use crate::error::{Error, Result};
use crate::{loom, miri, qemu};

/// The test that drives QEMU's SMMU.
const NEEDS_QEMU: &str = "qemu_smmu_matches_the_model";

/// Seconds of random input for each fuzz target in `make check`.
const FUZZ_SECONDS: &str = "30";

/// Runs the tests of the workspace. The long ones are ignored here and part of [`long`].
///
/// # Errors
/// cargo cannot be started.
pub fn test() -> Result<TestCounts> {
    let counts = run(cargo(&["test", "--workspace", "--no-fail-fast"]))?;
    println!("host tests: {counts}");
    Ok(counts)
}

/// Runs the long tests: the ignored ones in an optimised build, the fuzz targets, loom and Miri.
///
/// # Errors
/// cargo cannot be started.
pub fn long() -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    let mut ignored =
        cargo(&["test", "--profile=judge", "--package=drivers", "--test=smmu", "--", "--ignored"]);
    if !has_qemu() {
        println!("{NEEDS_QEMU} ... skipped: {} is not installed", qemu::PROGRAM);
        ignored.args(["--skip", NEEDS_QEMU]);
        counts.skipped += 1;
    }
    counts += run(ignored)?;
    counts += run(fuzz())?;
    counts += loom::test()?;
    counts += miri::check()?;
    println!("long host tests: {counts}");
    Ok(counts)
}

/// Every fuzz target, for `FUZZ_SECONDS` of the environment.
fn fuzz() -> Command {
    let mut fuzz = cargo(&["test", "--profile=judge", "--package=kernel", "--test=fuzz"]);
    fuzz.args(["--", "--nocapture", "--test-threads=2"]);
    if std::env::var_os("FUZZ_SECONDS").is_none() {
        fuzz.env("FUZZ_SECONDS", FUZZ_SECONDS);
    }
    fuzz
}

fn has_qemu() -> bool {
    stdout_of(qemu::PROGRAM, &["--version"]).is_some()
}

/// Runs a `cargo test`, forwards the relevant lines of its output, and counts.
pub fn run(mut command: Command) -> Result<TestCounts> {
    println!("$ {}", shown(&command));
    let failed = |cause| Error::Start { program: "cargo".into(), cause };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = child.stdout.take().expect("the output is piped");
    let mut counts = TestCounts::default();
    for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
        failed_test(&line).into_iter().for_each(counts::record_failure);
        match result(&line) {
            Some(one) => counts += one,
            None if is_relevant(&line) => println!("{line}"),
            None => {}
        }
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() && counts.failed == 0 {
        // It did not build, or a test program was killed.
        counts += TestCounts::named(format!("{}: {status}", shown(&command)), false);
    }
    Ok(counts)
}

/// The test in `test a::b ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Whether a line is not one of the hundreds of `test x ... ok` lines.
pub fn is_relevant(line: &str) -> bool {
    !line.is_empty() && !line.ends_with("... ok") && !line.starts_with("running ")
}

/// The count in `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
pub fn result(line: &str) -> Option<TestCounts> {
    let (_, text) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = TestCounts::default();
    for part in text.split(';') {
        let mut words = part.split_whitespace();
        let (Some(count), Some(kind)) = (words.next(), words.next()) else { continue };
        match (count.parse(), kind) {
            (Ok(count), "passed") => counts.passed = count,
            (Ok(count), "failed") => counts.failed = count,
            (Ok(count), "ignored") => counts.skipped = count,
            _ => {}
        }
    }
    Some(counts)
}

/// The number of filtered tests in the same line.
pub fn filtered_out(line: &str) -> Option<usize> {
    let (before, _) = line.strip_prefix("test result: ")?.split_once(" filtered out")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_read_from_cargos_line() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(result(line), Some(TestCounts { passed: 12, failed: 2, skipped: 1 }));
        assert_eq!(result("test judge::tests::x ... ok"), None);
        assert_eq!(failed_test("test judge::tests::x ... ok"), None);
        assert_eq!(failed_test("test judge::tests::x ... FAILED"), Some("judge::tests::x"));
    }
}
