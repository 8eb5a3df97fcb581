//! `cargo xtask mutants`: mistakes in the source that no test can make from outside, each in a copy of the work tree, and
//! the judge that has to notice it.
//!
//! Most mutants need none of this: they are made between the driver and the model, and run with every `cargo test`
//! (`drivers/tests/smmu/judge/mutants.rs`, `kernel/tests/caches/mutants.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::question;
use crate::error::{Error, Result};
use crate::tally::Tally;
use crate::workspace;

/// A mistake: some text of a file that is replaced by other text.
struct Mutant {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    judge: Judge,
}

#[derive(Clone, Copy)]
enum Judge {
    /// Random programs against the SMMU driver.
    Smmu,
    /// The DMA core on a machine with caches.
    Caches,
}

impl Judge {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Smmu => &["--package=drivers", "--test=smmu", "--", "judge::no_access"],
            Self::Caches => &["--package=kernel", "--test=caches", "--", "a_device_that"],
        }
    }
}

/// All of them. `doc/testing.md` has the same list.
const MUTANTS: [Mutant; 11] = [
    Mutant {
        name: "a stream table entry written in one go",
        file: "lib/smmu-spec/src/update.rs",
        from: "    let prepared = prepare(live, target);\n    match",
        to: "    let prepared = target.words();\n    let _ = prepare(live, target);\n    match",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a block cut without breaking it first",
        file: "lib/pagetable/src/cut.rs",
        from: "        self.break_slots(m, table, level, slots.clone(), at);\n",
        to: "        if false {\n            self.break_slots(m, table, level, slots.clone(), at);\n        }\n",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "what is left of a block not published",
        file: "lib/pagetable/src/cut.rs",
        from: "        m.publish();\n        Ok(())",
        to: "        Ok(())",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "the contiguous hint on every leaf of a run",
        file: "lib/pagetable/src/fill.rs",
        from: "    if step.contiguous {",
        to: "    if step.contiguous || step.leaves > 1 {",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a table linked before its entries are seen",
        file: "lib/pagetable/src/map.rs",
        from: "        m.publish();\n        write_link(m, found.table",
        to: "        write_link(m, found.table",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a table replaced while the old one may be cached",
        file: "drivers/src/smmu/domain.rs",
        from: "let forgotten = !tables.is_empty() &&",
        to: "let forgotten = tables.is_empty() && false &&",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a second-level stream table linked before its entries are seen",
        file: "drivers/src/smmu/stream_table.rs",
        from: "        upkeep.publish();\n        first.store(above",
        to: "        first.store(above",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a tag used again while the SMMU knows it",
        file: "drivers/src/smmu/domain.rs",
        from: "Invalidation::of_tag(self.how.tag)",
        to: "Invalidation::NOTHING",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a frame that becomes non-cacheable keeps its alias",
        file: "kernel/src/dma/buffer.rs",
        from: "is_low(chunk)).for_each(linear::remove);",
        to: "is_low(chunk)).for_each(|chunk| drop((linear::remove as fn(Chunk), chunk)));",
        judge: Judge::Caches,
    },
    Mutant {
        name: "a non-cacheable buffer not zeroed",
        file: "kernel/src/memory/kmap.rs",
        from: "        unsafe { arch::cache::zero(range) };\n        arch::barrier::dsb_sy();",
        to: "        arch::barrier::dsb_sy();",
        judge: Judge::Caches,
    },
    Mutant {
        name: "a line shared with a stream that the device writes",
        file: "kernel/src/dma/stream.rs",
        from: "!(offset | (offset + bytes)).is_multiple_of(LINE)",
        to: "!(offset | (offset + bytes)).is_multiple_of(LINE) && false",
        judge: Judge::Caches,
    },
];

/// Tries those whose names contain one of `words` (all without words). Each mutant that is noticed counts as passed.
pub fn mutants(words: &[String]) -> Result<Tally> {
    let tree = workspace::target().join("mutants/tree");
    copy_sources(&tree)?;
    let mut tally = Tally::default();
    for mutant in MUTANTS {
        if words.is_empty() || words.iter().any(|word| mutant.name.contains(word.as_str())) {
            let caught = is_caught(&tree, &mutant)?;
            println!("{}: {}", if caught { "caught" } else { "MISSED" }, mutant.name);
            tally += Tally::one(caught);
        }
    }
    Ok(tally)
}

fn is_caught(tree: &Path, mutant: &Mutant) -> Result<bool> {
    let path = tree.join(mutant.file);
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    if text.matches(mutant.from).count() != 1 {
        return Err(Error::Missing(format!("{}: {:?} is not there once", mutant.file, mutant.from)));
    }
    let write = |text: &str| fs::write(&path, text).map_err(Error::file("write", &path));
    write(&text.replace(mutant.from, mutant.to))?;
    let said = run_judge(tree, mutant.judge);
    write(&text)?;
    let said = said?;
    if !said.contains("test result: ") {
        return Err(Error::Missing(format!("{}: it does not build:\n{said}", mutant.name)));
    }
    Ok(said.contains("test result: FAILED"))
}

fn run_judge(tree: &Path, judge: Judge) -> Result<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args(["test", "--offline", "--target-dir"]).arg(tree.with_file_name("build"));
    command.args(judge.arguments()).env("RUST_BACKTRACE", "0");
    let failed = |cause| Error::Start { program: "cargo".into(), cause };
    let output = command.output().map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// What git has of the work tree, as it is now.
fn copy_sources(tree: &Path) -> Result<()> {
    let root = workspace::root();
    let listed = question("git", &["-C", &root.to_string_lossy(), "ls-files"]);
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
    fn every_mutant_has_its_place_and_is_in_the_documentation() {
        let text = fs::read_to_string(workspace::root().join("doc/testing.md")).unwrap();
        let (_, section) = text.split_once("### Mutants of the source").unwrap();
        let section = section.split("\n#").next().unwrap();
        let listed: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | caught |")).collect();
        assert_eq!(listed, MUTANTS.map(|mutant| mutant.name));
        for mutant in MUTANTS {
            let text = fs::read_to_string(workspace::root().join(mutant.file)).unwrap();
            assert_eq!(text.matches(mutant.from).count(), 1, "{}", mutant.name);
        }
    }
}
