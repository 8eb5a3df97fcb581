//! `cargo xtask miri`: host tests in Miri, the interpreter that detects undefined behaviour.
//!
//! Two processes at a time; the output of each is shown when it ends. Miri needs a nightly toolchain, which
//! is installed if it is missing. Without one, everything here is skipped, with the reason.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::command::{shown, stdout_of};
use crate::counts::{self, TestCounts};
use crate::error::{Error, Result};
use crate::{host, tools, verbs, workspace};

/// The toolchain of Miri, pinned by its date, since the rules differ between versions.
pub const TOOLCHAIN: &str = "nightly-2026-05-20";

/// Concurrent processes; more on two cores are not faster.
const AT_ONCE: usize = 2;

/// Tests read files and the clock; kernel and fakes convert addresses to pointers, as the hardware does.
const FLAGS: &str = "-Zmiri-disable-isolation -Zmiri-permissive-provenance";

/// Random cases of each property test; Miri is thousands of times slower than the processor.
const PROPTEST_CASES: &str = "4";

/// Some tests of a package.
struct MiriJob {
    package: &'static str,
    tests: &'static [&'static str],
    /// More flags for Miri.
    flags: &'static str,
}

impl MiriJob {
    const fn of(package: &'static str, tests: &'static [&'static str]) -> Self {
        Self { package, tests, flags: "" }
    }

    fn name(&self) -> String {
        format!("{} {}", self.package, self.tests.join(" "))
    }
}

/// Memory that tests give to a driver as `'static` is never freed.
const LEAKS: &str = "-Zmiri-ignore-leaks";
/// Stacked Borrows track each word of a machine's whole RAM, which takes minutes a test; these tests have one
/// thread.
const WHOLE_RAM: &str =
    "-Zmiri-ignore-leaks -Zmiri-disable-stacked-borrows -Zmiri-disable-data-race-detector";

/// The jobs of `make check`: crates with unsafe code. The longest first.
const JOBS: &[MiriJob] = &[
    // Tests that map much memory take too long.
    MiriJob {
        package: "drivers",
        tests: &["--test", "smmu", "--", "commands::", "events::"],
        flags: WHOLE_RAM,
    },
    MiriJob { package: "drivers", tests: &["--lib"], flags: LEAKS },
    // Device tree tests take a minute each, and the parser is safe code.
    MiriJob {
        package: "kernel",
        tests: &["--lib", "--", "--skip", "board::", "--skip", "bcm2835_dma::"],
        flags: LEAKS,
    },
    MiriJob { package: "kernel", tests: &["--test", "caches"], flags: WHOLE_RAM },
    MiriJob::of("arch", &["--lib"]),
    MiriJob::of("dma-api", &["--lib", "--tests"]),
];

/// The further jobs of `make miri`: crates without unsafe code, where only a library that they call could
/// have undefined behaviour. Half of the time.
const SAFE_JOBS: &[MiriJob] = &[
    MiriJob::of("program", &["--lib", "--tests"]),
    MiriJob::of("memory", &["--lib", "--tests"]),
    // Tests that build whole tables take minutes.
    MiriJob::of(
        "pagetable",
        &["--lib", "--", "change::", "descriptor::", "geometry::", "mapping::", "steps::"],
    ),
    MiriJob::of("smmu-spec", &["--lib", "--tests"]),
    MiriJob::of("addr", &["--lib"]),
    MiriJob::of("abi", &["--lib"]),
];

/// The names of the jobs.
pub fn names() -> Vec<String> {
    all().map(MiriJob::name).collect()
}

fn all() -> impl Iterator<Item = &'static MiriJob> {
    JOBS.iter().chain(SAFE_JOBS)
}

/// Runs all jobs, or those whose names contain one of the words.
pub fn test(only: &[String]) -> Result<TestCounts> {
    run(&all().filter(|job| verbs::is_selected(&job.name(), only)).collect::<Vec<_>>())
}

/// Runs the jobs of `make check`.
pub fn check() -> Result<TestCounts> {
    run(&JOBS.iter().collect::<Vec<_>>())
}

fn run(jobs: &[&MiriJob]) -> Result<TestCounts> {
    if let Err(why) = tools::miri(TOOLCHAIN) {
        println!("Miri: {} tests skipped: {why}", jobs.len());
        return Ok(TestCounts { skipped: jobs.len(), ..TestCounts::default() });
    }
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(TestCounts::default()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (counts, report) = one(job);
                    // Printed under the lock, so that two reports do not mix.
                    let mut sum = sum.lock().expect("no reporter panics");
                    *sum += counts;
                    print!("{report}");
                }
            });
        }
    });
    let counts = sum.into_inner().expect("no reporter panics");
    println!("Miri: {counts}");
    Ok(counts)
}

/// Runs one job; an error of the tool is a failure.
fn one(job: &MiriJob) -> (TestCounts, String) {
    let started = Instant::now();
    let mut command = command(job);
    let output = command.output().map_err(|cause| Error::Start { program: "rustup".into(), cause });
    let (counts, text) = match &output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let counts = counts(&text, output.status.success());
            (counts, text + String::from_utf8_lossy(&output.stderr))
        }
        Err(error) => (TestCounts::one(false), error.to_string().into()),
    };
    if counts.failed != 0 {
        counts::record_failure(format!("miri {}: {counts}", job.name()));
    }
    let word = if counts.failed == 0 { "ok  " } else { "FAIL" };
    let took = started.elapsed().as_secs_f64();
    let mut report = format!("{word} miri {:24} {took:6.1} s  {counts}\n", job.name());
    if counts.failed != 0 {
        report += &format!("     $ {}\n", shown(&command));
        text.lines()
            .filter(|line| host::is_relevant(line))
            .for_each(|line| report += &format!("     | {line}\n"));
    }
    (counts, report)
}

/// The sum of a job's test results. Filtered tests count as skipped.
fn counts(text: &str, success: bool) -> TestCounts {
    let mut sum = TestCounts::default();
    for line in text.lines() {
        host::result(line).into_iter().for_each(|one| sum += one);
        sum.skipped += host::filtered_out(line).unwrap_or(0);
    }
    if sum.failed == 0 && (!success || sum.passed == 0) {
        // It did not build, a test program was killed, or no test ran.
        sum.failed = 1;
    }
    sum
}

fn command(job: &MiriJob) -> Command {
    // Not `cargo` of the environment, which belongs to the running toolchain.
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, "cargo", "miri", "test", "--no-fail-fast", "--target-dir"]);
    command.arg(workspace::target()).args(["--package", job.package]).args(job.tests);
    command.current_dir(workspace::root());
    command.env("MIRIFLAGS", format!("{FLAGS} {}", job.flags)).env("PROPTEST_CASES", PROPTEST_CASES);
    // In Miri, the symbols of the backtrace of an expected panic take minutes.
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Whether the toolchain is installed with Miri and the library's source.
pub fn is_installed(toolchain: &str) -> bool {
    let source = "lib/rustlib/src/rust/library/Cargo.lock";
    let asked = |words: &[&str]| stdout_of("rustup", &[&["run", toolchain], words].concat());
    let sysroot = asked(&["rustc", "--print", "sysroot"]);
    let has_source = sysroot.is_some_and(|root| std::path::Path::new(root.trim()).join(source).is_file());
    has_source && asked(&["cargo", "miri", "--version"]).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filtered_tests_are_skipped_and_a_crash_is_a_failure() {
        let text =
            "test result: ok. 45 passed; 0 failed; 1 ignored; 0 measured; 62 filtered out; finished in 1s\n";
        assert_eq!(counts(text, true), TestCounts { passed: 45, failed: 0, skipped: 63 });
        assert_eq!(counts(text, false).failed, 1);
        assert_eq!(counts("", true).failed, 1);
    }

    #[test]
    fn every_library_has_a_job() {
        let libraries = std::fs::read_dir(workspace::root().join("lib")).unwrap();
        let names = libraries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in names.chain(["arch", "drivers", "kernel"].map(str::to_owned)) {
            assert!(all().any(|job| job.package == name), "{name}");
        }
    }

    #[test]
    fn crates_outside_make_check_have_no_unsafe_code() {
        for job in SAFE_JOBS {
            let root = workspace::root().join("lib").join(job.package).join("src/lib.rs");
            let source = std::fs::read_to_string(root).unwrap();
            assert!(source.contains("(unsafe_code)]"), "{}", job.package);
        }
    }
}
