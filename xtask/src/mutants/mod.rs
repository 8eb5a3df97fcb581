//! `cargo xtask mutants`: mistakes in the source that no test can make from outside, each in a copy of the work tree, and
//! the oracle that has to notice it.
//!
//! Most mutants need none of this: they are made between the driver and the model, and run with every `cargo test`
//! (`drivers/tests/smmu/oracle/mutants.rs`, `kernel/tests/caches/mutants.rs`).
//!
//! Some oracles are boots: the kernel is built from the copy, and has to fail a self-test (`target.rs`).
//!
//! The copy has a target directory of its own, in which a mutant only makes the crates anew that it is in or under. The
//! oracles run by themselves, for a bounded time: a mutant may well make them hang.

mod boot;
mod list;
mod location;
mod oracle;
mod target;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::command::question;
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::workspace;
use list::SourceMutant;
use oracle::Outcome;

/// Tries those whose names contain one of `words`, and for the word `target` those that a boot has to notice (all without
/// words). Each mutant that is noticed counts as passed. First
/// comes the source as it is, in which no oracle may notice anything.
pub fn mutants(words: &[String]) -> Result<TestCounts> {
    let tree = workspace::target().join("mutants/tree");
    copy_sources(&tree)?;
    let is_meant = |mutant: &SourceMutant, word: &str| {
        mutant.name.contains(word) || (word == "target" && mutant.oracle.is_boot())
    };
    let wanted = |mutant: &&SourceMutant| words.is_empty() || words.iter().any(|word| is_meant(mutant, word));
    let wanted: Vec<_> = all().filter(wanted).collect();
    oracle::check(&tree, wanted.iter().map(|mutant| mutant.oracle))?;
    let mut counts = TestCounts::default();
    for (index, mutant) in wanted.iter().enumerate() {
        let start = Instant::now();
        let verdict = try_one(&tree, mutant)?;
        let seconds = start.elapsed().as_secs();
        println!("mutant {}/{} {verdict} in {seconds} s: {}", index + 1, wanted.len(), mutant.name);
        counts += TestCounts::one(verdict.is_killed());
    }
    Ok(counts)
}

/// All mistakes, in the order of `doc/judges.md`.
fn all() -> impl Iterator<Item = &'static SourceMutant> {
    list::MUTANTS.iter().chain(target::MUTANTS)
}

/// What the oracle says of the tree with this mistake in it. The tree is right again after it.
fn try_one(tree: &Path, mutant: &SourceMutant) -> Result<Outcome> {
    let path = tree.join(mutant.file);
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let mut mutated = text.clone();
    mutated.replace_range(location::find(mutant, &text)?, mutant.to);
    let write = |text: &str| fs::write(&path, text).map_err(Error::file("write", &path));
    write(&mutated)?;
    let verdict = oracle::run(tree, mutant.oracle);
    write(&text)?;
    verdict
}

/// The work tree as it is now, without what git ignores.
fn copy_sources(tree: &Path) -> Result<()> {
    let root = workspace::root();
    let listed = question(
        "git",
        &["-C", &root.to_string_lossy(), "ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let listed = listed.ok_or_else(|| Error::Missing("git, to know which files are sources".into()))?;
    for name in listed.lines().map(PathBuf::from) {
        let (from, to) = (root.join(&name), tree.join(&name));
        let directory = to.parent().unwrap_or(tree);
        fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
        let text = fs::read(&from).map_err(Error::file("read", &from))?;
        // What has not changed keeps its time, and is not built again.
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
        let text = fs::read_to_string(workspace::root().join("doc/judges.md")).unwrap();
        let (_, section) = text.split_once("### Mutants of the source").unwrap();
        let section = section.split("\n#").next().unwrap();
        let listed: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | caught |")).collect();
        assert_eq!(listed, all().map(|mutant| mutant.name).collect::<Vec<_>>());
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
