//! The verbs of the command line: their arguments, their help, and the check of both.

use std::process::ExitCode;

use crate::counts::{self, TestCounts};
use crate::error::{Error, Result};
use crate::knobs::{self, Knobs};
use crate::{
    artifacts, bench, check, flash, foreign, inject, loom, miri, modules, mutants, names, prose, run, suite,
};

struct Verb {
    name: &'static str,
    /// The arguments, as in the usage line.
    usage: &'static str,
    about: &'static str,
    arguments: Arguments,
    run: fn(&[String]) -> Result<ExitCode>,
}

/// The arguments that a verb accepts.
#[derive(Clone, Copy)]
enum Arguments {
    None,
    /// Words, each a part of one of these names.
    Names {
        kind: &'static str,
        all: fn() -> Vec<String>,
    },
    /// Arguments with this description, which the verb checks.
    Other {
        help: &'static str,
    },
}

const VERBS: [Verb; 15] = [
    Verb {
        name: "build",
        usage: "",
        about: "builds target/image/{kernel8.img,kernel.elf,initramfs.cpio}",
        arguments: Arguments::None,
        run: |_| artifacts::build().map(|_| ExitCode::SUCCESS),
    },
    Verb {
        name: "run",
        usage: "",
        about: "builds, and boots in QEMU on this terminal",
        arguments: Arguments::None,
        run: |_| run::interactive(&Knobs::from_environment()?),
    },
    Verb {
        name: "debug",
        usage: "",
        about: "as run, stopped at the first instruction, with QEMU's gdb server on port 1234",
        arguments: Arguments::None,
        run: |_| run::debug(&Knobs::from_environment()?),
    },
    Verb {
        name: "image",
        usage: "",
        about: "writes the files for a card or disk, BOARD=generic or BOARD=rpi",
        arguments: Arguments::None,
        run: |_| flash::images(&Knobs::from_environment()?).map(|()| ExitCode::SUCCESS),
    },
    Verb {
        name: "test",
        usage: "[CASE..]",
        about: "runs the host tests and the cases of `make test`; or only the cases whose names contain a word",
        arguments: Arguments::Names { kind: "case", all: suite::names },
        run: |words| suite::test(words).map(conclude),
    },
    Verb {
        name: "check",
        usage: "",
        about: "runs everything that CI runs",
        arguments: Arguments::None,
        run: |_| check::check().map(conclude),
    },
    Verb {
        name: "bench",
        usage: bench::USAGE,
        about: "measures, compares with Linux and writes a report; or measures the benchmarks that match GLOB",
        arguments: Arguments::Other { help: bench::HELP },
        run: |words| bench::bench(words).map(conclude),
    },
    Verb {
        name: "foreign",
        usage: "[--record] [SUITE..]",
        about: "runs Debian's programs, and compares their answers with those recorded on Linux",
        arguments: Arguments::Other {
            help: "  SUITE     busybox, bash, libraries or dma-buf; default: all\n  --record  boots Linux, and stores its answers",
        },
        run: |words| foreign::foreign(words).map(conclude),
    },
    Verb {
        name: "inject",
        usage: "[WORD..]",
        about: "injects faults into all self-tests; or into those whose names contain a word",
        arguments: Arguments::Other {
            help: "  WORD  a part of a self-test's name, such as dma. or programs.std",
        },
        run: |words| inject::inject(words).map(conclude),
    },
    Verb {
        name: "mutants",
        usage: "[WORD..]",
        about: "runs all source mutants; or those whose names contain a word, with `target` for those that boot",
        arguments: Arguments::Names { kind: "mutant", all: mutants::names },
        run: |words| mutants::mutants(words).map(conclude),
    },
    Verb {
        name: "miri",
        usage: "[WORD..]",
        about: "runs the host tests in Miri; or the jobs whose names contain a word",
        arguments: Arguments::Names { kind: "job", all: miri::names },
        run: |words| miri::test(words).map(conclude),
    },
    Verb {
        name: "loom",
        usage: "",
        about: "runs the concurrency tests under loom",
        arguments: Arguments::None,
        run: |_| loom::test().map(conclude),
    },
    Verb {
        name: "modules",
        usage: "[FROM TO]",
        about: "reports cycles between modules; or the places where module FROM depends on module TO",
        arguments: Arguments::Other {
            help: "  FROM, TO  modules of the kernel, of its dma module or of the SMMU driver",
        },
        run: |words| modules::check(words).map(conclude),
    },
    Verb {
        name: "names",
        usage: "",
        about: "lists the type names with more than one meaning",
        arguments: Arguments::None,
        run: |_| names::list().map(conclude),
    },
    Verb {
        name: "prose",
        usage: "[PATH..]",
        about: "lists the comment lines whose wording hides a technical term",
        arguments: Arguments::Other { help: "  PATH  a file or directory; default: all files" },
        run: |words| prose::check(words).map(conclude),
    },
];

/// Runs the verb of the command line, or prints help.
///
/// # Errors
/// An unknown verb, a bad argument, or an error of the verb.
pub fn run(words: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = words.split_first() else {
        return Err(Error::Usage(format!("no verb is given\n{}", overview())));
    };
    if is_help(name) {
        let text = match rest.first() {
            Some(name) => find(name)?.help(),
            None => overview(),
        };
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let verb = find(name)?;
    if rest.iter().any(|word| is_help(word)) {
        println!("{}", verb.help());
        return Ok(ExitCode::SUCCESS);
    }
    verb.check(rest)?;
    (verb.run)(rest)
}

fn is_help(word: &str) -> bool {
    ["help", "--help", "-h"].contains(&word)
}

fn find(name: &str) -> Result<&'static Verb> {
    let verbs = || VERBS.map(|verb| verb.name.to_owned());
    VERBS.iter().find(|verb| verb.name == name).ok_or_else(|| Error::argument("verb", name, &verbs()))
}

fn overview() -> String {
    let mut text = String::from(
        "usage: cargo xtask VERB [ARGUMENT..]    (cargo xtask VERB --help lists the arguments)\n\n",
    );
    for verb in &VERBS {
        text += &format!("  {:8} {}\n", verb.name, verb.about);
    }
    text + "\n" + knobs::HELP
}

impl Verb {
    fn help(&self) -> String {
        let usage = format!("usage: cargo xtask {} {}", self.name, self.usage);
        let mut text = format!("{}\n\n{}", usage.trim_end(), self.about);
        match self.arguments {
            Arguments::None => {}
            Arguments::Names { kind, all } => text += &format!("\n\n{kind}s:\n{}", columns(&all())),
            Arguments::Other { help } => text += &format!("\n\n{help}"),
        }
        text
    }

    fn check(&self, words: &[String]) -> Result<()> {
        match (self.arguments, words) {
            (Arguments::None, [word, ..]) => {
                Err(Error::Usage(format!("{word}: {} takes no arguments", self.name)))
            }
            (Arguments::Names { kind, all }, words) => check_names(kind, words, &all()),
            _ => Ok(()),
        }
    }
}

/// Checks that each of `words` is a part of one of the names.
///
/// # Errors
/// The first word that is not, with the names.
pub fn check_names(kind: &'static str, words: &[String], names: &[String]) -> Result<()> {
    let is_known = |word: &String| names.iter().any(|name| name.contains(word.as_str()));
    match words.iter().find(|word| !is_known(word)) {
        Some(word) => Err(Error::argument(kind, word, names)),
        None => Ok(()),
    }
}

/// Whether `name` contains one of `words`; true without words.
pub fn is_selected(name: &str, words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// Names over several lines, separated by two spaces, since a mutant's name has spaces.
pub fn columns(names: &[String]) -> String {
    const WIDTH: usize = 110;
    let mut lines = vec![String::new()];
    for name in names {
        let line = match lines.pop() {
            Some(line) if line.is_empty() || line.len() + 2 + name.len() <= WIDTH => line,
            full => {
                lines.extend(full);
                String::new()
            }
        };
        lines.push(format!("{line}  {name}"));
    }
    lines.join("\n")
}

/// Prints the failed tests again and the last line of a verb, and returns the matching exit status.
///
/// The failures may be an hour of output above the last line, and a CI service may show only the end.
fn conclude(counts: TestCounts) -> ExitCode {
    counts::failures().iter().for_each(|name| println!("FAILED: {name}"));
    println!("{counts}");
    if counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        run(&words).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_argument_is_reported_with_the_accepted_ones() {
        let table = [
            ("", "no verb is given", "cargo xtask VERB"),
            ("tset", "tset: unknown verb", "  test  "),
            ("help tset", "tset: unknown verb", "  test  "),
            ("build all", "all: build takes no arguments", ""),
            ("test mosaic nonsense", "nonsense: unknown case", "  mosaic  "),
            ("test --all", "--all: unknown case", "  budgets  "),
            ("mutants nonsense", "nonsense: unknown mutant", "ASID reused without invalidation"),
            ("miri nonsense", "nonsense: unknown job", "addr --lib"),
            ("bench --nonsense", "--nonsense: unknown option of bench", "--stored"),
            ("bench nonsense", "nonsense: unknown benchmark", "map_single"),
            ("bench alloc mmap", "mmap: ", "GLOB"),
            ("modules dma", "dma: ", "FROM TO"),
            ("modules dma nonsense", "nonsense: unknown module", "sched"),
            ("prose nonsense", "nonsense: ", "no file"),
        ];
        for (line, start, accepted) in table {
            let shown = error(line);
            assert!(shown.starts_with(start), "{line}: {shown}");
            assert!(shown.contains(accepted), "{line}: {shown}");
        }
    }

    #[test]
    fn help_is_no_error() {
        for line in ["help", "--help", "help test", "test --help", "bench -h"] {
            let words: Vec<String> = line.split_whitespace().map(String::from).collect();
            assert!(run(&words).is_ok(), "{line}");
        }
    }

    #[test]
    fn commands_named_in_documents_are_accepted() {
        // In capitals: a placeholder.
        let is_literal = |word: &&str| !word.contains(|c: char| c.is_ascii_uppercase() || "[.".contains(c));
        let named = crate::documents::commands("cargo xtask ");
        assert!(named.len() > 10, "{named:?}");
        for (at, command) in named {
            let mut words = command.split_whitespace().skip(2);
            let verb = find(words.next().unwrap_or_default()).unwrap_or_else(|error| panic!("{at}: {error}"));
            let words: Vec<String> = words.filter(is_literal).map(String::from).collect();
            verb.check(&words).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
    }

    #[test]
    fn make_commands_named_in_documents_are_accepted() {
        let makefile = std::fs::read_to_string(crate::workspace::root().join("Makefile")).unwrap();
        let list = |name: &str| makefile.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let knobs: Vec<_> = list("KNOBS := ").split_whitespace().collect();
        let verbs: Vec<_> = list("VERBS := ").split_whitespace().chain(["fuzz", "soak"]).collect();
        let named = crate::documents::commands("make ");
        assert!(named.len() > 30, "{named:?}");
        for (at, command) in named {
            // The words of a value in quotes belong to its knob.
            let unquoted: String = command.split('"').step_by(2).collect();
            for word in unquoted.split_whitespace().skip(1) {
                let (known, name) = word.split_once('=').map_or((&verbs, word), |(name, _)| (&knobs, name));
                assert!(known.contains(&name), "{at}: {command}: {name}");
            }
        }
    }

    #[test]
    fn every_verb_is_in_the_makefile() {
        let makefile = std::fs::read_to_string(crate::workspace::root().join("Makefile")).unwrap();
        let verbs = makefile.lines().find_map(|line| line.strip_prefix("VERBS := ")).unwrap();
        let mut verbs: Vec<_> = verbs.split_whitespace().collect();
        let mut own = VERBS.map(|verb| verb.name).to_vec();
        verbs.sort_unstable();
        own.sort_unstable();
        assert_eq!(verbs, own);
    }
}
