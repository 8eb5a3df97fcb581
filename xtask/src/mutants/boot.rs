//! A oracle that is a boot: the kernel is built from the copy of the work tree, with the programs of the work tree itself,
//! and runs one self-test or one row of the matrix.
//!
//! A mistake is noticed if just that fails, and says what it has to say. A kernel that is not built, does not get there or
//! fails otherwise says nothing about the oracle.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::oracle::Outcome;
use crate::artifacts::{self, Artifacts};
use crate::command::run;
use crate::error::{Error, Result};
use crate::expectation::Expectation;
use crate::matrix::{self, Case};
use crate::qemu::{self, QemuRun};
use crate::workspace::{self, KERNEL_TARGET};
use crate::{image, machine, prepare};

/// What is booted, and the text by which it says that it has noticed the mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BootTest {
    /// A self-test, on [`MACHINE`].
    SelfTest { name: &'static str, says: &'static str },
    /// A row of the matrix.
    Row { name: &'static str, says: &'static str },
}

/// The row on whose machine the self-tests run: it has all that any of them needs.
const MACHINE: &str = "virt-gicv3-4cpu-2G";
/// The cargo profile of these kernels: quickly built, and optimised all the same.
const PROFILE: &str = "counting";
/// A test that does not end says nothing; the longest takes a tenth of this.
const PATIENCE: Duration = Duration::from_secs(200);

/// Makes sure that no boot fails with `tree` as it is.
///
/// # Errors
/// One does, or skips a test, or it is not built.
pub fn check(tree: &Path, boots: &[BootTest]) -> Result<()> {
    if boots.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let initramfs = artifacts::programs()?;
    let built = Artifacts { image: build(tree)?, initramfs };
    let tests: Vec<&str> = boots.iter().filter_map(|boot| boot.self_test()).collect();
    if !tests.is_empty() {
        require_pass(&self_tests(&built, &tests.join(","))?, Expectation::KtapWithoutSkips)?;
    }
    let mut rows: Vec<&str> = boots.iter().filter_map(|boot| boot.row()).collect();
    rows.sort_unstable();
    rows.dedup();
    for name in rows {
        let row = row(name)?;
        require_pass(&start_row(row, &built)?, row.expect)?;
    }
    println!("no mutant, no failure of the target in {} s", start.elapsed().as_secs());
    Ok(())
}

fn require_pass(run: &QemuRun, expect: Expectation) -> Result<()> {
    let failures = expect.evaluate(run).failures;
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::Missing(format!("the target fails without any mutant: {}", failures.join("; "))))
}

impl BootTest {
    fn self_test(self) -> Option<&'static str> {
        match self {
            Self::SelfTest { name, .. } => Some(name),
            Self::Row { .. } => None,
        }
    }

    fn row(self) -> Option<&'static str> {
        match self {
            Self::Row { name, .. } => Some(name),
            Self::SelfTest { .. } => None,
        }
    }

    /// What it says of the kernel in `tree`.
    pub fn run(self, tree: &Path) -> Result<Outcome> {
        let Ok(image) = build(tree) else { return Ok(Outcome::Inconclusive("it is not built".into())) };
        let built = Artifacts { image, initramfs: workspace::images().join("initramfs.cpio") };
        match self {
            Self::SelfTest { name, says } => Ok(of_test(&self_tests(&built, name)?.console, name, says)),
            Self::Row { name, says } => {
                let row = row(name)?;
                let run = start_row(row, &built)?;
                Ok(of_row(&run.console, &row.expect.evaluate(&run).failures, says))
            }
        }
    }
}

/// What a console says of the self-test `name`, which has to fail with `says`.
fn of_test(console: &str, name: &str, says: &str) -> Outcome {
    let mut seen = String::new();
    for line in console.lines() {
        let result =
            line.trim_start_matches("not ").strip_prefix("ok ").and_then(|rest| rest.split_once(' '));
        match result {
            Some((_, test)) if test == name && line.starts_with("ok") => return Outcome::Survived,
            Some((_, test)) if test == name && seen.contains(says) => return Outcome::Killed,
            Some(_) => return Outcome::Inconclusive(format!("{line}: {seen}")),
            None if line.starts_with("# ") => seen += line,
            None => {}
        }
    }
    Outcome::Inconclusive(format!("no result; last is {:?}", console.lines().next_back().unwrap_or_default()))
}

/// What the console of a row says, of which these are the matrix's failures.
fn of_row(console: &str, failures: &[String], says: &str) -> Outcome {
    match failures {
        [] => Outcome::Survived,
        _ if console.contains(says) => Outcome::Killed,
        _ => Outcome::Inconclusive(failures.join("; ")),
    }
}

fn self_tests(built: &Artifacts, names: &str) -> Result<QemuRun> {
    let boot = machine::BootInput {
        entry: machine::BootImage::Kernel(built.image.clone()),
        initramfs: Some(built.initramfs.clone()),
        append: format!("selftest={names} lowmem=256M"),
    };
    start(row(MACHINE)?, &boot)
}

fn row(name: &str) -> Result<&'static Case> {
    let found = matrix::cases().find(|case| case.name == name);
    found.ok_or_else(|| Error::Missing(format!("{name} in the matrix")))
}

fn start_row(row: &Case, built: &Artifacts) -> Result<QemuRun> {
    start(row, &prepare::boot(row, &row.machine(), built, &workspace::target().join("mutants/boot"))?)
}

fn start(row: &Case, boot: &machine::BootInput) -> Result<QemuRun> {
    qemu::capture(
        &row.machine().arguments(boot),
        PATIENCE,
        &workspace::target().join("mutants/boot.log"),
        |_| false,
    )
}

/// Builds the kernel in `tree`, and says where its image is.
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
    // A mistake may well leave something unused behind.
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
    fn a_test_notices_a_mistake_only_by_failing_for_it() {
        let of = |console| of_test(console, "a.b", "too many");
        assert_eq!(of("1..1\n# 7 are too many\nnot ok 1 a.b\n"), Outcome::Killed);
        assert_eq!(of("1..1\n# all is well\nok 1 a.b\n"), Outcome::Survived);
        for other in [
            "",
            "1..1\nkernel panic: too many\n",
            "1..1\n# too few\nnot ok 1 a.b\n",
            "1..1\nok 1 a.b # SKIP too many\n",
            "1..1\n# too many\nnot ok 1 a.bc\n",
        ] {
            assert!(matches!(of(other), Outcome::Inconclusive(_)), "{other}: {}", of(other));
        }
    }

    #[test]
    fn a_row_notices_a_mistake_only_by_failing_for_it() {
        let failures = ["not shown: PASS".to_owned()];
        assert_eq!(of_row("checksum: FAIL", &failures, "FAIL"), Outcome::Killed);
        assert_eq!(of_row("checksum: PASS", &[], "FAIL"), Outcome::Survived);
        assert!(matches!(of_row("kernel panic:", &failures, "FAIL"), Outcome::Inconclusive(_)));
    }
}
