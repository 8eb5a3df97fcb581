//! `cargo xtask modules`: the dependencies between modules, which have no cycle.
//!
//! Rust accepts cycles between the modules of a crate; a reader and a layered design do not. The nodes of a
//! scope are its top-level modules, each with its submodules. An edge is a path or a `use` that names an item
//! of another one, where a re-export counts as the module that defines the item. Tests are left out.

mod graph;
mod paths;
mod tree;

use std::collections::BTreeSet;
use std::path::Path;

use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::workspace;
use graph::{Edge, Graph};
use tree::Crate;

/// A crate, and the module whose submodules are the nodes.
struct GraphScope {
    crate_directory: &'static str,
    module: &'static [&'static str],
}

const SCOPES: [GraphScope; 4] = [
    GraphScope { crate_directory: "kernel", module: &[] },
    GraphScope { crate_directory: "kernel", module: &["dma"] },
    GraphScope { crate_directory: "drivers", module: &["smmu"] },
    GraphScope { crate_directory: "drivers", module: &["gic"] },
];

impl GraphScope {
    fn name(&self) -> String {
        [&[self.crate_directory, "src"], self.module].concat().join("/")
    }

    fn graph(&self, root: &Path) -> Result<Graph> {
        Ok(Graph::new(&Crate::read(&root.join(self.crate_directory).join("src/lib.rs"))?, self.module))
    }
}

/// Checks every scope. With two words, lists each place that makes the first depend on the second.
///
/// # Errors
/// A file is not read, or a word is not a module.
pub fn check(words: &[String]) -> Result<TestCounts> {
    match words {
        [] => check_cycles(),
        [from, to] => list_edges(from, to),
        [first, ..] => Err(Error::Usage(format!("{first}: modules takes no arguments or two, FROM TO"))),
    }
}

fn list_edges(from: &str, to: &str) -> Result<TestCounts> {
    let graphs: Vec<Graph> =
        SCOPES.iter().map(|scope| scope.graph(workspace::root())).collect::<Result<_>>()?;
    let modules: BTreeSet<&String> = graphs.iter().flat_map(|graph| &graph.nodes).collect();
    let modules: Vec<String> = modules.into_iter().cloned().collect();
    if let Some(name) = [from, to].into_iter().find(|name| !modules.iter().any(|module| module == name)) {
        return Err(Error::argument("module", name, &modules));
    }
    let edges: Vec<&Edge> = graphs.iter().flat_map(|graph| graph.edges(from, to)).collect();
    edges.iter().for_each(|edge| println!("{edge}"));
    println!("{from} depends on {to} in {} places", edges.len());
    Ok(TestCounts::one(true))
}

fn check_cycles() -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    for scope in &SCOPES {
        let graph = scope.graph(workspace::root())?;
        let report = graph.cycles();
        println!("{}: {}", scope.name(), if report.is_empty() { "no cycle" } else { "cycles" });
        report.iter().for_each(|line| println!("{line}"));
        counts += TestCounts::one(report.is_empty());
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_no_cycle() {
        for scope in &SCOPES {
            let report = scope.graph(workspace::root()).unwrap().cycles();
            assert!(report.is_empty(), "{}:\n{}", scope.name(), report.join("\n"));
        }
    }
}
