//! A boot as an oracle: the kernel is built from the copy of the work tree, with the programs of the work
//! tree itself, and runs one self-test or one case of the matrix.
//!
//! A mutant is detected if that test fails with the expected text. A failed build, or a failure before the
//! test or with another text, is inconclusive.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::oracle::MutantOutcome;
use crate::artifacts::{self, Artifacts};
use crate::command::run;
use crate::error::{Error, Result};
use crate::expectation::ConsoleExpectation;
use crate::matrix::{self, Case};
use crate::qemu::{self, QemuRun};
use crate::workspace::{self, KERNEL_TARGET};
use crate::{image, machine, prepare};

/// The boot, and the text of its failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BootTest {
    /// A self-test, on [`MACHINE`].
    SelfTest { name: &'static str, text: &'static str },
    /// A case of the matrix.
    Case { name: &'static str, text: &'static str },
}

/// The case on whose machine the self-tests run: it has every device.
const MACHINE: &str = "virt-gicv3-4cpu-2G";
/// The cargo profile of these kernels: optimised, with a short build.
const PROFILE: &str = "counting";
/// The time limit of a boot; the longest takes a tenth of it.
const TIME_LIMIT: Duration = Duration::from_secs(200);

/// Checks that no boot fails with the unmodified `tree`.
///
/// # Errors
/// A test fails or is skipped, or the kernel is not built.
pub fn check(tree: &Path, boots: &[BootTest]) -> Result<()> {
    if boots.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let initramfs = artifacts::programs()?;
    let built = Artifacts { image: build(tree)?, initramfs };
    let tests: Vec<&str> = boots.iter().filter_map(|boot| boot.self_test()).collect();
    if !tests.is_empty() {
        require_pass(&self_tests(&built, &tests.join(","))?, ConsoleExpectation::KtapWithoutSkips)?;
    }
    let mut cases: Vec<&str> = boots.iter().filter_map(|boot| boot.case()).collect();
    cases.sort_unstable();
    cases.dedup();
    for name in cases {
        let case = case_named(name)?;
        require_pass(&boot_case(case, &built)?, case.expect)?;
    }
    println!("all boots pass on the unmodified source in {} s", start.elapsed().as_secs());
    Ok(())
}

fn require_pass(run: &QemuRun, expect: ConsoleExpectation) -> Result<()> {
    let failures = expect.evaluate(run).failures;
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::Missing(format!("a boot fails on the unmodified source: {}", failures.join("; "))))
}

impl BootTest {
    /// The self-test's or the case's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SelfTest { name, .. } | Self::Case { name, .. } => name,
        }
    }

    fn self_test(self) -> Option<&'static str> {
        match self {
            Self::SelfTest { name, .. } => Some(name),
            Self::Case { .. } => None,
        }
    }

    fn case(self) -> Option<&'static str> {
        match self {
            Self::Case { name, .. } => Some(name),
            Self::SelfTest { .. } => None,
        }
    }

    /// Boots the kernel of `tree`.
    pub fn run(self, tree: &Path) -> Result<MutantOutcome> {
        let Ok(image) = build(tree) else {
            return Ok(MutantOutcome::Inconclusive("the build failed".into()));
        };
        let built = Artifacts { image, initramfs: workspace::images().join("initramfs.cpio") };
        match self {
            Self::SelfTest { name, text } => {
                Ok(outcome_of_test(&self_tests(&built, name)?.console, name, text))
            }
            Self::Case { name, text } => {
                let case = case_named(name)?;
                let run = boot_case(case, &built)?;
                Ok(outcome_of_case(&run.console, &case.expect.evaluate(&run).failures, text))
            }
        }
    }
}

/// The outcome of the self-test `name`, whose failure must contain `text`.
fn outcome_of_test(console: &str, name: &str, text: &str) -> MutantOutcome {
    let mut seen = String::new();
    for line in console.lines() {
        let result =
            line.trim_start_matches("not ").strip_prefix("ok ").and_then(|rest| rest.split_once(' '));
        match result {
            Some((_, test)) if test == name && line.starts_with("ok") => return MutantOutcome::Survived,
            Some((_, test)) if test == name && seen.contains(text) => return MutantOutcome::Killed,
            Some(_) => return MutantOutcome::Inconclusive(format!("{line}: {seen}")),
            None if line.starts_with("# ") => seen += line,
            None => {}
        }
    }
    MutantOutcome::Inconclusive(format!(
        "no result; the last line is {:?}",
        console.lines().next_back().unwrap_or_default()
    ))
}

/// The outcome of a case with these failures.
fn outcome_of_case(console: &str, failures: &[String], text: &str) -> MutantOutcome {
    match failures {
        [] => MutantOutcome::Survived,
        _ if console.contains(text) => MutantOutcome::Killed,
        _ => MutantOutcome::Inconclusive(failures.join("; ")),
    }
}

fn self_tests(built: &Artifacts, names: &str) -> Result<QemuRun> {
    let boot = machine::BootInput {
        entry: machine::BootImage::Kernel(built.image.clone()),
        initramfs: Some(built.initramfs.clone()),
        append: format!("selftest={names} lowmem=256M"),
    };
    start(case_named(MACHINE)?, &boot)
}

fn case_named(name: &str) -> Result<&'static Case> {
    let found = matrix::cases().find(|case| case.name == name);
    found.ok_or_else(|| Error::Missing(format!("{name} in the matrix")))
}

fn boot_case(case: &Case, built: &Artifacts) -> Result<QemuRun> {
    start(case, &prepare::boot(case, &case.machine(), built, &workspace::target().join("mutants/boot"))?)
}

fn start(case: &Case, boot: &machine::BootInput) -> Result<QemuRun> {
    qemu::capture(
        &case.machine().arguments(boot),
        TIME_LIMIT,
        &workspace::target().join("mutants/boot.log"),
        case.typed,
        |_| false,
    )
}

/// Builds the kernel in `tree` and returns its image.
fn build(tree: &Path) -> Result<PathBuf> {
    let target = tree.with_file_name("build");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args([
        "build",
        "--quiet",
        "--offline",
        "--package=image",
        "--profile",
        PROFILE,
    ]);
    command.args(["--target", KERNEL_TARGET, "--target-dir"]).arg(&target);
    // A mutant may leave unused code, so warnings are not shown.
    command.env("CARGO_PROFILE_COUNTING_INCREMENTAL", "true").stderr(Stdio::null());
    run(&mut command)?;
    let image = target.join("kernel8.img");
    image::write(&target.join(KERNEL_TARGET).join(PROFILE).join("tessera"), &image)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_test_kills_a_mutant_only_with_its_text() {
        let of = |console| outcome_of_test(console, "a.b", "too many");
        assert_eq!(of("1..1\n# 7 are too many\nnot ok 1 a.b\n"), MutantOutcome::Killed);
        assert_eq!(of("1..1\n# all is well\nok 1 a.b\n"), MutantOutcome::Survived);
        for other in [
            "",
            "1..1\nkernel panic: too many\n",
            "1..1\n# too few\nnot ok 1 a.b\n",
            "1..1\nok 1 a.b # SKIP too many\n",
            "1..1\n# too many\nnot ok 1 a.bc\n",
        ] {
            assert!(matches!(of(other), MutantOutcome::Inconclusive(_)), "{other}: {}", of(other));
        }
    }

    #[test]
    fn a_case_kills_a_mutant_only_with_its_text() {
        let failures = ["not shown: PASS".to_owned()];
        assert_eq!(outcome_of_case("checksum: FAIL", &failures, "FAIL"), MutantOutcome::Killed);
        assert_eq!(outcome_of_case("checksum: PASS", &[], "FAIL"), MutantOutcome::Survived);
        assert!(matches!(
            outcome_of_case("kernel panic:", &failures, "FAIL"),
            MutantOutcome::Inconclusive(_)
        ));
    }
}
