//! `cargo xtask prose`: wording in comments and documents that hides the field's terms.
//!
//! Three kinds of hits in comments and documents, none of which is accepted:
//!
//! - [`HitKind::Clause`]: a thing named by a clause in place of its term;
//! - [`HitKind::Person`]: a person in place of a component;
//! - [`HitKind::Idiom`]: an idiom in place of a plain word.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::command::stdout_of;
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::workspace;

const KINDS: [HitKind; 3] = [HitKind::Clause, HitKind::Person, HitKind::Idiom];
/// Lists the words themselves.
const GLOSSARY: &str = "doc/glossary.md";

/// The words that begin a clause, and those that follow in it.
const PRONOUNS: &str = "what whatever who whoever";
const FOLLOWERS: &str = "is are was were has have had it they the a an each this that other others does did do can cannot \
                         may must will would came comes stands wait waits look looks hold holds own owns should device \
                         kernel cpu cpus memory somebody nobody";
const PEOPLE: &str = "nobody somebody anybody everybody someone anyone everyone";
const IDIOMS: [&str; 22] = [
    "for good",
    "begin anew",
    "begins anew",
    "goes on",
    "come to it",
    "comes to it",
    "one after the other",
    "as it says",
    "the other way round",
    "is seen to",
    "stands out of",
    "gives room",
    "held up",
    "in the hands of",
    "to be had",
    "whence",
    "wherefore",
    "thereby",
    "such a one",
    "none the less",
    "no more than",
    "at last",
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum HitKind {
    Clause,
    Person,
    Idiom,
}

/// The hits in some files.
#[derive(Default)]
struct Survey {
    lines: usize,
    hits: Vec<Hit>,
}

struct Hit {
    file: String,
    line: usize,
    kind: HitKind,
    text: String,
}

/// Prints every hit in the files below `paths`, all files of the tree without paths. One test for each kind.
///
/// # Errors
/// git is missing, a file is not read, or a path has no file.
pub fn check(paths: &[String]) -> Result<TestCounts> {
    let survey = survey(paths)?;
    for hit in &survey.hits {
        println!("{}:{}: [{:?}] {}", hit.file, hit.line, hit.kind, hit.text);
    }
    survey.folders().iter().for_each(|line| println!("{line}"));
    let mut counts = TestCounts::default();
    for kind in KINDS {
        let hits = survey.count(kind);
        println!("{kind:?}: {hits} in {} lines", survey.lines);
        counts += TestCounts::one(hits == 0);
    }
    Ok(counts)
}

fn survey(paths: &[String]) -> Result<Survey> {
    let root = workspace::root();
    let mut words = vec!["-C".to_owned(), root.display().to_string(), "ls-files".into(), "--".into()];
    match paths {
        [] => words.extend(["*.rs", "*.md", "*.s", "*.ld", "Makefile"].map(String::from)),
        _ => words.extend(paths.iter().cloned()),
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let listed =
        stdout_of("git", &words).ok_or_else(|| Error::Missing("git, for the list of files".into()))?;
    let has_file = |path: &&String| stdout_of("git", &[&words[..4], &[path]].concat()) != Some(String::new());
    if let Some(path) = paths.iter().find(|path| !has_file(path)) {
        return Err(Error::Usage(format!("{path}: no file of this path is tracked by git")));
    }
    let mut survey = Survey::default();
    for file in listed.lines().filter(|file| *file != GLOSSARY) {
        let path = root.join(file);
        // A deleted file is still listed.
        if path.is_file() {
            let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
            survey.add(file, &String::from_utf8_lossy(&bytes));
        }
    }
    Ok(survey)
}

impl Survey {
    fn add(&mut self, file: &str, text: &str) {
        for (line, text) in prose(file, text) {
            self.lines += 1;
            for kind in hits(text) {
                self.hits.push(Hit { file: file.into(), line, kind, text: text.trim().into() });
            }
        }
    }

    fn count(&self, kind: HitKind) -> usize {
        self.hits.iter().filter(|hit| hit.kind == kind).count()
    }

    /// The number of hits in each folder.
    fn folders(&self) -> Vec<String> {
        let mut folders = BTreeMap::<String, [usize; 3]>::new();
        for hit in &self.hits {
            let folder = Path::new(&hit.file).parent().unwrap_or(Path::new("")).display().to_string();
            folders.entry(folder).or_default()[hit.kind as usize] += 1;
        }
        let shown = folders.iter();
        shown
            .map(|(folder, [clause, person, idiom])| format!("{folder:36} {clause:4} {person:4} {idiom:4}"))
            .collect()
    }
}

/// The lines of comments, or of a document outside of its code blocks, with their numbers.
fn prose<'a>(file: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut is_code = false;
    match Path::new(file).extension().and_then(|extension| extension.to_str()) {
        Some("md") => numbered
            .filter(|(_, line)| {
                let is_fence = line.trim_start().starts_with("```");
                is_code ^= is_fence;
                !is_fence && !is_code && !line.trim().is_empty()
            })
            .collect(),
        Some("rs" | "s" | "ld") => numbered.filter_map(|(n, line)| Some((n, comment(line)?))).collect(),
        _ => numbered.filter_map(|(n, line)| Some((n, line.trim_start().strip_prefix('#')?))).collect(),
    }
}

/// The text of a `//` or `/* */` comment, unless the slashes are in a string.
fn comment(line: &str) -> Option<&str> {
    if line.trim_start().starts_with("* ") {
        return Some(line);
    }
    let is_start = |at: &usize| {
        let before = &line[..*at];
        before.is_empty() || before.ends_with(char::is_whitespace)
    };
    let is_in_string = |at: &usize| !line[..*at].matches('"').count().is_multiple_of(2);
    let marks = line.match_indices("//").chain(line.match_indices("/*")).map(|(at, _)| at);
    let start = marks.filter(|at| is_start(at) && !is_in_string(at)).min()?;
    Some(line[start..].trim_matches(['/', '!', '*']))
}

/// The hits in a line. Code spans do not count.
fn hits(text: &str) -> Vec<HitKind> {
    let text: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" , ").to_lowercase();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    // White space separates; any other character is a word of its own, so that no phrase reaches across it.
    let mut words = Vec::new();
    for part in text.split_whitespace() {
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c| !is_word(c)).filter(|end| *end > 0).unwrap_or(if is_word(first) {
                rest.len()
            } else {
                first.len_utf8()
            });
            words.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
    let is_in = |list: &str, word: &str| list.split_whitespace().any(|listed| listed == word);
    let clauses = words.windows(2).filter(|pair| is_in(PRONOUNS, pair[0]) && is_in(FOLLOWERS, pair[1]));
    let people = words.iter().filter(|word| is_in(PEOPLE, word));
    let idioms = IDIOMS.iter().flat_map(|idiom| {
        let idiom: Vec<&str> = idiom.split(' ').collect();
        words
            .windows(idiom.len())
            .filter(|run| **run == idiom[..])
            .map(|_| HitKind::Idiom)
            .collect::<Vec<_>>()
    });
    clauses.map(|_| HitKind::Clause).chain(people.map(|_| HitKind::Person)).chain(idioms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found() {
        let table: [(&str, &[HitKind]); 8] = [
            ("The frames that the device wrote.", &[]),
            ("Returns what the device wrote.", &[HitKind::Clause]),
            (
                "Nobody reads it, and whoever is late waits for good.",
                &[HitKind::Clause, HitKind::Person, HitKind::Idiom],
            ),
            ("What follows: the table.", &[]),
            ("`nobody` and `what is` are words.", &[]),
            ("what `is` code", &[]),
            ("The lock is held. Up to four CPUs wait.", &[]),
            ("Somebody's frames", &[HitKind::Person]),
        ];
        for (text, expected) in table {
            assert_eq!(hits(text), expected, "{text}");
        }
    }

    #[test]
    fn only_comments_and_text_are_read() {
        let rust = "let what_is = \"// nobody\"; // nobody\n/// somebody\nlet url = \"https://anyone\";\n";
        let mut survey = Survey::default();
        survey.add("a.rs", rust);
        assert_eq!(survey.hits.iter().map(|hit| hit.line).collect::<Vec<_>>(), [1, 2]);
        survey.add("a.md", "nobody\n```\nnobody\n```\n\nanyone\n");
        assert_eq!(survey.hits.iter().map(|hit| hit.line).collect::<Vec<_>>(), [1, 2, 1, 6]);
        survey.add("Makefile", "# nobody\nbuild: nobody\n");
        assert_eq!((survey.lines, survey.hits.len()), (5, 5));
    }

    #[test]
    fn hits_are_counted_by_kind() {
        let mut survey = Survey::default();
        survey.add("a.rs", &"// The command queue.\n".repeat(999));
        assert_eq!(KINDS.map(|kind| survey.count(kind)), [0, 0, 0]);
        survey.add("b.rs", "// Nobody knows what the SMMU has cached for good.\n");
        assert_eq!(KINDS.map(|kind| survey.count(kind)), [1, 1, 1]);
    }

    #[test]
    fn the_tree_has_no_hits() {
        let hits = survey(&[]).unwrap().hits;
        let shown: Vec<String> =
            hits.iter().map(|hit| format!("{}:{}: {}", hit.file, hit.line, hit.text)).collect();
        assert!(hits.is_empty(), "{}", shown.join("\n"));
    }
}
