//! A crate's modules, read from its root file along the `mod` declarations, without test code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::TokenTree;

use super::paths::{self, Reference, UseImport};
use crate::error::{Error, Result};
use crate::source;
use crate::workspace;

/// The names from the crate's root to a module or an item.
pub type ModulePath = Vec<String>;

/// A module with its references to others.
#[derive(Default, Debug)]
pub struct Module {
    /// Its file, from the root of the workspace on.
    pub file: PathBuf,
    /// The names of its items.
    pub items: Vec<String>,
    pub imports: Vec<UseImport>,
    pub references: Vec<Reference>,
}

/// All modules of a crate.
#[derive(Default, Debug)]
pub struct Crate {
    pub modules: BTreeMap<ModulePath, Module>,
}

impl Crate {
    /// Reads the crate with this root file.
    ///
    /// # Errors
    /// A file is not read, or is not Rust.
    pub fn read(root: &Path) -> Result<Self> {
        let mut found = Self::default();
        let directory = root.parent().unwrap_or(root).to_owned();
        found.read_file(root, &directory, Vec::new())?;
        Ok(found)
    }

    /// Reads a file and those of the modules that it declares, which are in `directory`.
    fn read_file(&mut self, file: &Path, directory: &Path, path: ModulePath) -> Result<()> {
        let text = fs::read_to_string(file).map_err(Error::file("read", file))?;
        let trees = source::without_tests(source::lex(&text)?);
        for declared in self.add(file, &trees, path.clone()) {
            let name = &declared[declared.len() - 1];
            let directory =
                declared[path.len()..declared.len() - 1].iter().fold(directory.to_owned(), |d, n| d.join(n));
            let (flat, nested) = (directory.join(format!("{name}.rs")), directory.join(name).join("mod.rs"));
            let file = if flat.is_file() { flat } else { nested };
            self.read_file(&file, &directory.join(name), declared)?;
        }
        Ok(())
    }

    /// Adds the module at `path` and those inside it, and returns the paths of those in other files.
    pub fn add(&mut self, file: &Path, trees: &[TokenTree], path: ModulePath) -> Vec<ModulePath> {
        let mut module = Module {
            file: file.strip_prefix(workspace::root()).unwrap_or(file).to_owned(),
            items: source::items(trees).into_iter().map(|item| item.name).collect(),
            ..Module::default()
        };
        let (mut rest, mut elsewhere) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < trees.len() {
            match &trees[at..] {
                [TokenTree::Ident(word), TokenTree::Ident(name), end, ..] if word == "mod" => {
                    let inner = [&path[..], &[name.to_string()]].concat();
                    match end {
                        TokenTree::Group(body) => {
                            let body = source::without_tests(body.stream().into_iter().collect());
                            elsewhere.extend(self.add(file, &body, inner));
                        }
                        _ => elsewhere.push(inner),
                    }
                    at += 3;
                }
                [tree, ..] => {
                    rest.push(tree.clone());
                    at += 1;
                }
                [] => break,
            }
        }
        paths::read(&rest, &mut module.imports, &mut module.references);
        self.modules.insert(path, module);
        elsewhere
    }
}
