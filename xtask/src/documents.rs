//! Tests of the documents and comments of the tree: files, types and links that the documents name exist,
//! figures are current, comments have the width of the code.

use std::collections::BTreeSet;
use std::fs;

use crate::command::stdout_of;
use crate::matrix;
use crate::workspace;

/// `max_width` in `rustfmt.toml`, which rustfmt does not apply to comments.
const MAX_WIDTH: usize = 110;

/// The tracked files that match `patterns`, with their text.
fn tracked(patterns: &[&str]) -> Vec<(String, String)> {
    let root = workspace::root();
    let words = [&["-C", root.to_str().unwrap(), "ls-files", "--"], patterns].concat();
    let listed = stdout_of("git", &words).expect("git lists the files");
    // A deleted file is still listed; a binary file has no comments.
    let read = |file: &str| Some((file.to_owned(), fs::read_to_string(root.join(file)).ok()?));
    listed.lines().filter_map(read).collect()
}

fn documents() -> Vec<(String, String)> {
    tracked(&["*.md"])
}

/// Calls `visit` with the location and text of each line outside of code blocks.
fn each_line<'a>(documents: &'a [(String, String)], mut visit: impl FnMut(&str, &'a str)) {
    for (file, text) in documents {
        let mut is_code = false;
        for (index, line) in text.lines().enumerate() {
            is_code ^= line.starts_with("```");
            if !is_code {
                visit(&format!("{file}:{}", index + 1), line);
            }
        }
    }
}

/// The location and text of each command in the documents that starts with `start`, in code blocks and code
/// spans, without its comment.
pub fn commands(start: &str) -> Vec<(String, String)> {
    let mut commands = Vec::new();
    for (file, text) in documents() {
        for (index, line) in text.lines().enumerate() {
            let named = spans(line).chain([line]).filter(|command| command.starts_with(start));
            let without_comment = |command: &str| command.split(" #").next().unwrap().trim_end().to_owned();
            commands.extend(named.map(|command| (format!("{file}:{}", index + 1), without_comment(command))));
        }
    }
    commands
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a code span names a file or a folder of the tree: a source file, or a path below one of `tops`.
/// Generated files are below `target/`; a part in capitals is a placeholder.
fn is_tree_path(span: &str, tops: &BTreeSet<&str>) -> bool {
    let is_placeholder = |part: &str| part.contains(|c: char| c.is_uppercase()) && !part.contains('.');
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let is_source = [".rs", ".s", ".md", ".tsv", ".toml", ".ld"].iter().any(|suffix| span.ends_with(suffix));
    let below_top = span.split_once('/').is_some_and(|(top, _)| tops.contains(top));
    span.chars().all(is_path) && (is_source || below_top) && !span.split('/').any(is_placeholder)
}

/// Whether `path` is one of `files` or a folder of them, from the root or from any folder.
fn exists(path: &str, files: &[String]) -> bool {
    let path = path.trim_end_matches('/');
    files.iter().any(|file| {
        let ends_in = file.match_indices(path).any(|(at, _)| {
            let (before, after) = (&file[..at], &file[at + path.len()..]);
            (before.is_empty() || before.ends_with('/')) && (after.is_empty() || after.starts_with('/'))
        });
        !path.is_empty() && ends_in
    })
}

/// The paths in `documents` that are not in `files`.
fn missing_paths(documents: &[(String, String)], files: &[String]) -> Vec<String> {
    let tops = files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let mut missing = Vec::new();
    each_line(documents, |at, line| {
        let named = spans(line).filter(|span| is_tree_path(span, &tops));
        missing.extend(named.filter(|path| !exists(path, files)).map(|path| format!("{at}: {path}")));
    });
    missing
}

/// The words of `sources`.
fn words(sources: &[(String, String)]) -> BTreeSet<&str> {
    let split = |text| str::split(text, |c: char| !c.is_ascii_alphanumeric() && c != '_');
    sources.iter().flat_map(|(_, text)| split(text)).collect()
}

/// The Rust paths in `documents` (`Type`, `Type::function`, `module::function`) with a part that does not
/// occur in the sources.
fn missing_items(documents: &[(String, String)], words: &BTreeSet<&str>) -> Vec<String> {
    let is_identifier = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !part.starts_with(|c: char| c.is_ascii_digit())
    };
    let is_type = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_uppercase()) && part.contains(|c: char| c.is_ascii_lowercase())
    };
    let mut missing = Vec::new();
    each_line(documents, |at, line| {
        for span in spans(line) {
            let parts: Vec<&str> = span.trim_end_matches("()").split("::").collect();
            let is_item =
                parts.iter().all(|part| is_identifier(part)) && (parts.len() > 1 || is_type(parts[0]));
            if is_item && !parts.iter().all(|part| words.contains(part)) {
                missing.push(format!("{at}: {span}"));
            }
        }
    });
    missing
}

/// The items of a table row "`path`: `item`, `item`" that do not occur in that file or folder.
fn misplaced_items(documents: &[(String, String)], sources: &[(String, String)]) -> Vec<String> {
    let mut missing = Vec::new();
    each_line(documents, |at, line| {
        for (index, _) in line.match_indices("`: `") {
            let path = line[..index].rsplit('`').next().unwrap();
            let listed = line[index + 3..].split([';', '|']).next().unwrap();
            let below: Vec<_> = sources
                .iter()
                .filter(|(file, _)| {
                    file == path || file.starts_with(&format!("{}/", path.trim_end_matches('/')))
                })
                .cloned()
                .collect();
            if below.is_empty() {
                continue;
            }
            let words = words(&below);
            // After the items may follow other text, or a span with another path.
            let items = spans(listed).take_while(|span| !span.contains(['/', '.']));
            let parts = items.flat_map(|item| item.split("::"));
            missing.extend(
                parts.filter(|part| !words.contains(part)).map(|part| format!("{at}: {part} in {path}")),
            );
        }
    });
    missing
}

/// The anchors that GitHub makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.chars().filter(|&c| kept(c)).collect::<String>().replace(' ', "-"))
        .collect()
}

/// The links of `documents` to a file or a heading that does not exist.
fn dead_links(documents: &[(String, String)]) -> Vec<String> {
    let mut dead = Vec::new();
    each_line(documents, |at, line| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in targets.filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let own = at.rsplit_once(':').unwrap().0;
            let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
            let target = match (path, folder) {
                ("", _) => own.to_owned(),
                (path, "") => path.to_owned(),
                (path, folder) => path.strip_prefix("../").map_or(format!("{folder}/{path}"), str::to_owned),
            };
            let text = documents.iter().find(|(file, _)| *file == target).map(|(_, text)| text);
            let is_live = match text {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && workspace::root().join(&target).exists(),
            };
            if !is_live {
                dead.push(format!("{at}: {link}"));
            }
        }
    });
    dead
}

/// The comment lines of more than [`MAX_WIDTH`] columns.
fn wide_comments(sources: &[(String, String)]) -> Vec<String> {
    let mut wide = Vec::new();
    for (file, text) in sources {
        let is_script = !file.ends_with(".rs") && !file.ends_with(".s") && !file.ends_with(".ld");
        for (index, line) in text.lines().enumerate() {
            let marks: &[&str] = if is_script { &["#"] } else { &["// ", "/// ", "//! ", "/* ", " * "] };
            let is_comment = marks.iter().any(|mark| line.trim_start().starts_with(mark.trim_start()))
                || marks.iter().any(|mark| line.contains(&format!(" {mark}")) && !line.contains('"'));
            if is_comment && line.chars().count() > MAX_WIDTH {
                wide.push(format!("{file}:{}", index + 1));
            }
        }
    }
    wide
}

const SOURCES: [&str; 6] = ["*.rs", "*.s", "*.ld", "*.toml", "*.tsv", "Makefile"];
const NONE: [&str; 0] = [];

#[test]
fn files_named_in_documents_exist() {
    let files: Vec<_> = tracked(&["."]).into_iter().map(|(file, _)| file).collect();
    assert_eq!(missing_paths(&documents(), &files), NONE);
    let planted = [("a.md".into(), "`lib/no.rs`, `target/x`, `lib/`, `dir/mod.rs`, `lib/TARGET`".into())];
    assert_eq!(missing_paths(&planted, &["lib/dir/mod.rs".into()]), ["a.md:1: lib/no.rs"]);
}

#[test]
fn items_named_in_documents_exist() {
    let sources = tracked(&SOURCES);
    assert_eq!(missing_items(&documents(), &words(&sources)), NONE);
    let planted = [("a.md".into(), "`Stale`, `Absent`, `Stale::absent`, `plain`, `ERRNO`".into())];
    let words = BTreeSet::from(["Stale"]);
    assert_eq!(missing_items(&planted, &words), ["a.md:1: Absent", "a.md:1: Stale::absent"]);
}

#[test]
fn items_are_in_the_file_that_a_document_names_with_them() {
    let sources = tracked(&SOURCES);
    assert_eq!(misplaced_items(&documents(), &sources), NONE);
    let planted = [("a.md".into(), "| x | `lib/a.rs`: `There`, `Absent`; `lib/b.rs`: `There` |".into())];
    let sources = [("lib/a.rs".into(), "struct There;".into()), ("lib/b.rs".into(), String::new())];
    assert_eq!(
        misplaced_items(&planted, &sources),
        ["a.md:1: Absent in lib/a.rs", "a.md:1: There in lib/b.rs"]
    );
}

#[test]
fn links_of_documents_resolve() {
    assert_eq!(dead_links(&documents()), NONE);
    let planted = [
        ("a.md".into(), "# One, two\n[x](#one-two) [y](#one) [z](doc/b.md#c)".into()),
        ("doc/b.md".into(), "## C\n[x](../a.md#one-two) [y](a.md)".into()),
    ];
    assert_eq!(dead_links(&planted), ["a.md:2: #one", "doc/b.md:2: a.md"]);
}

#[test]
fn comments_are_at_most_as_wide_as_code() {
    let sources = tracked(&["*.rs", "*.s", "*.ld", "*.toml", "Makefile", ".ci/*"]);
    assert_eq!(wide_comments(&sources), NONE, "columns above {MAX_WIDTH}");
    let format = fs::read_to_string(workspace::root().join("rustfmt.toml")).unwrap();
    assert!(format.contains(&format!("max_width = {MAX_WIDTH}\n")), "{format}");
    let wide = "x".repeat(MAX_WIDTH);
    for (file, line, count) in [
        ("a.rs", format!("/// {wide}"), 1),
        ("a.rs", format!("call(); // {wide}"), 1),
        ("a.rs", format!("let text = \"// {wide}\";"), 0),
        ("Makefile", format!("# {wide}"), 1),
    ] {
        assert_eq!(wide_comments(&[(file.into(), line.clone())]).len(), count, "{line}");
    }
}

#[test]
fn tests_named_for_each_kind_of_fault_exist() {
    let path = workspace::root().join("doc/fault-classes.md");
    let text = fs::read_to_string(path).unwrap();
    let sources = tracked(&["*.rs"]);
    let self_tests = workspace::self_tests();
    let exists = |name: &str| match name {
        _ if name.contains('.') => self_tests.iter().any(|test| test == name),
        _ if matrix::cases().any(|case| case.name == name) => true,
        _ => sources.iter().any(|(_, text)| text.contains(&format!("fn {name}("))),
    };
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    let named: Vec<&str> = rows.filter_map(|row| row.split(" | ").nth(3)).flat_map(spans).collect();
    assert!(named.len() > 80, "{named:?}");
    let is_test = |name: &&&str| **name != "unsafe" && **name != "missing_safety_doc";
    let missing: Vec<_> = named.iter().filter(is_test).filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_system_call_has_a_row_with_its_state() {
    let root = workspace::root();
    let calls = fs::read_to_string(root.join("lib/abi/src/syscall.rs")).unwrap();
    // `Name = number "name",`
    let implemented: Vec<&str> = calls
        .lines()
        .filter_map(|line| line.split_once(" = ")?.1.strip_suffix("\",")?.split_once(" \""))
        .filter(|(number, _)| number.parse::<u32>().is_ok())
        .map(|(_, name)| name)
        .collect();
    let text = fs::read_to_string(root.join("doc/uapi.md")).unwrap();
    let (_, table) = text.split_once("\n## System calls\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<&str> =
        table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    assert!(implemented.len() > 60, "{implemented:?}");
    assert_eq!(rows, implemented);
}

#[test]
fn readme_states_the_number_of_lines() {
    let lines: usize = tracked(&["*.rs", "*.s"]).iter().map(|(_, text)| text.lines().count()).sum();
    let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
    let figure = readme.split(" 000 lines").next().unwrap().rsplit(' ').next().unwrap();
    let stated = 1000 * figure.parse::<usize>().unwrap();
    // 5 %: the figure does not have to follow each commit.
    assert!(lines.abs_diff(stated) * 20 <= lines, "{lines} lines, README.md says {stated}");
}
