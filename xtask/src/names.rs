//! `cargo xtask names`: type names with more than one meaning in the workspace, tests included.

use std::collections::BTreeMap;
use std::fs;

use crate::command::stdout_of;
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::source::{self, Item};
use crate::workspace;

/// Names that are conventional in each module that has one.
const CONVENTIONAL: [&str; 7] = ["Error", "Features", "Fixture", "Item", "Iter", "Registers", "Result"];
const TYPES: [&str; 5] = ["struct", "enum", "trait", "type", "union"];

/// Prints each name that is defined more than once, with the files. Fails if there is one.
///
/// # Errors
/// git is missing, or a file is not Rust.
pub fn list() -> Result<TestCounts> {
    let repeated = repeated()?;
    for (name, files) in &repeated {
        println!("{name}: {}", files.join(" "));
    }
    println!("{} type names with more than one meaning", repeated.len());
    Ok(TestCounts::one(repeated.is_empty()))
}

fn repeated() -> Result<BTreeMap<String, Vec<String>>> {
    let root = workspace::root();
    let listed = stdout_of("git", &["-C", &root.to_string_lossy(), "ls-files", "--", "*.rs"]);
    let listed = listed.ok_or_else(|| Error::Missing("git, for the list of files".into()))?;
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for file in listed.lines() {
        let path = root.join(file);
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        for name in types(&text)? {
            found.entry(name).or_default().push(file.into());
        }
    }
    found.retain(|name, files| {
        remove_cfg_alternatives(files);
        files.len() > 1 && !CONVENTIONAL.contains(&name.as_str())
    });
    Ok(found)
}

/// Removes each `disabled.rs` next to an `enabled.rs`: the two define the same types, under opposite `cfg`
/// conditions.
fn remove_cfg_alternatives(files: &mut Vec<String>) {
    let all = files.clone();
    files.retain(|file| {
        let folder = file.strip_suffix("disabled.rs");
        folder.is_none_or(|folder| !all.contains(&format!("{folder}enabled.rs")))
    });
}

/// The names of the types in a file, without those in functions.
fn types(text: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    collect(source::items(&source::lex(text)?), &mut names);
    Ok(names)
}

fn collect(items: Vec<Item>, names: &mut Vec<String>) {
    for item in items {
        if TYPES.contains(&item.keyword.as_str()) {
            names.push(item.name);
        } else if item.keyword == "mod" {
            let body: Vec<_> = item.body.unwrap_or_default().into_iter().collect();
            collect(source::items(&body), names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_tests_are_listed_but_not_associated_ones() {
        let text = "pub struct A<T>(T); mod m { enum B {} } impl X for A { type Item = u8; } type C = u8;\n\
                    union D { a: u8 } trait E { type F; } #[cfg(test)] mod tests { struct G; }";
        assert_eq!(types(text).unwrap(), ["A", "B", "C", "D", "E", "G"]);
    }

    #[test]
    fn type_names_have_one_meaning() {
        assert_eq!(repeated().unwrap(), BTreeMap::new());
    }

    #[test]
    fn cfg_alternatives_of_a_module_count_once() {
        let mut files =
            ["a/disabled.rs", "a/enabled.rs", "b/disabled.rs", "c/enabled.rs"].map(String::from).into();
        remove_cfg_alternatives(&mut files);
        assert_eq!(files, ["a/enabled.rs", "b/disabled.rs", "c/enabled.rs"]);
    }
}
