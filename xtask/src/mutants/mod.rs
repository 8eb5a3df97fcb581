//! `cargo xtask mutants`: faults in the source that no test can inject from outside, each in a copy of the
//! work tree, and the oracle that must detect it.
//!
//! Most mutants need no copy: they are injected between the driver and the model, in every `cargo test`
//! (`drivers/tests/smmu/judge/mutants.rs`, `kernel/tests/caches/mutants.rs`).
//!
//! Some oracles are boots: the kernel is built from the copy, and must fail a self-test (`target.rs`).
//!
//! The copy has its own target directory, in which a mutant rebuilds only its crate and the dependents. The
//! oracles run in processes of their own with a time limit, since a mutant may hang them.

mod boot;
mod list;
mod location;
mod oracle;
mod target;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::command::stdout_of;
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::{verbs, workspace};
use list::SourceMutant;
use oracle::MutantOutcome;

/// The word for all mutants with a boot as the oracle.
const TARGET: &str = "target";

/// The accepted words.
pub fn names() -> Vec<String> {
    all().map(|mutant| mutant.name).chain([TARGET]).map(String::from).collect()
}

/// Runs the mutants whose names contain one of `words`, and for the word [`TARGET`] those with a boot as the
/// oracle; all without words. A detected mutant counts as passed.
///
/// # Errors
/// An oracle fails on the unmodified source, or cannot be built.
pub fn mutants(words: &[String]) -> Result<TestCounts> {
    let with_boots = words.iter().any(|word| word == TARGET);
    let is_selected = |mutant: &&SourceMutant| {
        verbs::is_selected(mutant.name, words) || (with_boots && mutant.oracle.is_boot())
    };
    run(&all().filter(is_selected).collect::<Vec<_>>())
}

/// Runs the first mutant of each test program and of each group of boots: whether it detects anything.
///
/// # Errors
/// As for [`mutants`].
pub fn sample() -> Result<TestCounts> {
    let mut seen = BTreeSet::new();
    run(&all().filter(|mutant| seen.insert(mutant.oracle.group())).collect::<Vec<_>>())
}

/// Runs the oracles on the unmodified source first, where they must pass.
fn run(mutants: &[&SourceMutant]) -> Result<TestCounts> {
    let tree = workspace::target().join("mutants/tree");
    copy_sources(&tree)?;
    oracle::check(&tree, mutants.iter().map(|mutant| mutant.oracle))?;
    let mut counts = TestCounts::default();
    for (index, mutant) in mutants.iter().enumerate() {
        let start = Instant::now();
        let outcome = run_one(&tree, mutant)?;
        let seconds = start.elapsed().as_secs();
        println!("mutant {}/{} {outcome} in {seconds} s: {}", index + 1, mutants.len(), mutant.name);
        counts += TestCounts::named(format!("mutant {outcome}: {}", mutant.name), outcome.is_killed());
    }
    Ok(counts)
}

/// All mutants, in the order of `doc/mutants.md`.
fn all() -> impl Iterator<Item = &'static SourceMutant> {
    list::MUTANTS.iter().chain(target::MUTANTS)
}

/// The outcome of one mutant. The tree is restored afterwards.
fn run_one(tree: &Path, mutant: &SourceMutant) -> Result<MutantOutcome> {
    let path = tree.join(mutant.file);
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let mut mutated = text.clone();
    mutated.replace_range(location::find(mutant, &text)?, mutant.to);
    let write = |text: &str| fs::write(&path, text).map_err(Error::file("write", &path));
    write(&mutated)?;
    let outcome = oracle::run(tree, mutant.oracle);
    write(&text)?;
    outcome
}

/// Copies the work tree without the files that git ignores.
fn copy_sources(tree: &Path) -> Result<()> {
    let root = workspace::root();
    let listed = stdout_of(
        "git",
        &["-C", &root.to_string_lossy(), "ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let listed = listed.ok_or_else(|| Error::Missing("git, for the list of files".into()))?;
    for name in listed.lines().map(PathBuf::from) {
        let (from, to) = (root.join(&name), tree.join(&name));
        let directory = to.parent().unwrap_or(tree);
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        let text = fs::read(&from).map_err(Error::file("read", &from))?;
        // An unchanged file keeps its time and is not rebuilt.
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text).map_err(Error::file("write", &to))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_mutant() {
        let text = fs::read_to_string(workspace::root().join("doc/mutants.md")).unwrap();
        let (_, section) = text.split_once("\n## Mutants of the source").unwrap();
        let section = section.split("\n#").next().unwrap();
        let listed: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | killed |")).collect();
        assert_eq!(listed, all().map(|mutant| mutant.name).collect::<Vec<_>>());
    }

    #[test]
    fn every_boot_exists() {
        let self_tests = workspace::self_tests();
        for boot in all().filter_map(|mutant| mutant.oracle.boot()) {
            let name = boot.name();
            let is_case = crate::matrix::cases().any(|case| case.name == name);
            assert!(is_case || self_tests.iter().any(|test| test == name), "{name}");
        }
    }

    #[test]
    fn every_mutant_has_exactly_one_location() {
        let errors = all().filter_map(|mutant| {
            let text = fs::read_to_string(workspace::root().join(mutant.file));
            let location = text
                .map_err(|error| error.to_string())
                .and_then(|text| location::find(mutant, &text).map_err(|error| error.to_string()));
            location.err().map(|error| format!("{}: {}: {error}", mutant.file, mutant.name))
        });
        assert_eq!(errors.collect::<Vec<_>>(), [""; 0]);
    }
}
