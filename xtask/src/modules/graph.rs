//! The modules of a scope and the edges between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;

use super::paths::Reference;
use super::tree::{Crate, ModulePath};

/// The scope's own file among its nodes.
const OWN: &str = "mod";
/// The limit of a chain of re-exports; a longer one is a loop.
const MAX_REEXPORTS: usize = 16;

/// A place that makes one node depend on another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Edge {
    from: String,
    to: String,
    file: PathBuf,
    line: usize,
    path: String,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, file, line, path } = self;
        write!(f, "  {from} -> {to}  {}:{line} {path}", file.display())
    }
}

/// The nodes and the edges of a scope, sorted.
#[derive(Debug)]
pub struct Graph {
    /// The names of the modules.
    pub nodes: BTreeSet<String>,
    edges: BTreeSet<Edge>,
}

impl Graph {
    /// The dependencies between the submodules of `scope`. Its own file is a node too, unless it is the
    /// crate's root; its re-exports do not count as dependencies.
    pub fn new(all: &Crate, scope: &[&str]) -> Self {
        let mut edges = BTreeSet::new();
        for (path, module) in &all.modules {
            let Some(from) = node(path, scope) else { continue };
            let imports = module.imports.iter().filter(|import| !(import.is_public && from == OWN));
            for reference in imports.map(|import| &import.target).chain(&module.references) {
                let target =
                    absolute(all, path, &reference.path).map(|target| definition(all, target, MAX_REEXPORTS));
                let Some(to) = target.and_then(|target| node(&target, scope)).filter(|to| *to != from) else {
                    continue;
                };
                let Reference { path, line } = reference;
                let (file, path) = (module.file.clone(), path.join("::"));
                edges.insert(Edge { from: from.clone(), to, file, line: *line, path });
            }
        }
        let nodes = all.modules.keys().filter_map(|path| node(path, scope)).collect();
        Self { nodes, edges }
    }

    /// Each place that makes `from` depend on `to`.
    pub fn edges(&self, from: &str, to: &str) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == from && edge.to == to)
    }

    /// A shortest cycle of each group of modules that depend on each other, then every edge inside the group;
    /// empty without a cycle.
    pub fn cycles(&self) -> Vec<String> {
        let mut report = Vec::new();
        let mut done = BTreeSet::new();
        let nodes: BTreeSet<&str> = self.edges.iter().map(|edge| edge.from.as_str()).collect();
        for node in nodes {
            if done.contains(node) || self.path(node, node).is_none() {
                continue;
            }
            let group: Vec<&str> = self.group(node);
            let cycles = group.iter().filter_map(|member| self.path(member, member));
            let Some(cycle) = cycles.min_by_key(Vec::len) else { continue };
            report.push(cycle.join(" -> "));
            report.extend(
                cycle.windows(2).filter_map(|pair| self.edges(pair[0], pair[1]).next()).map(Edge::to_string),
            );
            report.push(format!(" {} modules depend on each other:", group.len()));
            for (from, to) in group.iter().flat_map(|from| group.iter().map(move |to| (from, to))) {
                let places: Vec<_> = self.edges(from, to).collect();
                report.extend(places.first().map(|first| format!("{first} ({} in all)", places.len())));
            }
            done.extend(group);
        }
        report
    }

    /// The nodes that `node` reaches and that reach it.
    fn group(&self, node: &str) -> Vec<&str> {
        let nodes: BTreeSet<&str> = self.edges.iter().map(|edge| edge.from.as_str()).collect();
        let is_mutual = |other: &&str| self.path(node, other).is_some() && self.path(other, node).is_some();
        nodes.into_iter().filter(is_mutual).collect()
    }

    /// The nodes of a shortest path of at least one edge.
    fn path<'a>(&'a self, from: &'a str, to: &'a str) -> Option<Vec<&'a str>> {
        let mut before = BTreeMap::<&str, &str>::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for edge in self.edges.iter().filter(|edge| edge.from == node) {
                if before.contains_key(edge.to.as_str()) {
                    continue;
                }
                before.insert(&edge.to, node);
                queue.push_back(&edge.to);
            }
        }
        let mut path = vec![to, *before.get(to)?];
        while path[path.len() - 1] != from {
            path.push(before[path[path.len() - 1]]);
        }
        path.reverse();
        Some(path)
    }
}

/// The node of `scope` that a path belongs to.
fn node(path: &[String], scope: &[&str]) -> Option<String> {
    let rest = path.get(..scope.len()).filter(|start| *start == scope).map(|_| &path[scope.len()..])?;
    match rest.first() {
        Some(first) => Some(first.clone()),
        None => (!scope.is_empty()).then(|| OWN.into()),
    }
}

/// A path as it is written in `module`, from the crate's root on; `None` for a path out of the crate.
fn absolute(all: &Crate, module: &[String], path: &[String]) -> Option<ModulePath> {
    let first = path.first()?;
    let (start, rest) = match first.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        "super" => {
            let up = path.iter().take_while(|name| *name == "super").count();
            (module.get(..module.len().checked_sub(up)?)?.to_vec(), &path[up..])
        }
        _ => {
            let child = [module, std::slice::from_ref(first)].concat();
            all.modules.contains_key(&child).then_some((module.to_vec(), path))?
        }
    };
    Some([&start[..], rest].concat())
}

/// The module, as a path, that defines the item at `path`.
fn definition(all: &Crate, path: ModulePath, chain: usize) -> ModulePath {
    let depth = (0..=path.len()).rev().find(|&depth| all.modules.contains_key(&path[..depth])).unwrap_or(0);
    let (module, rest) = path.split_at(depth);
    let Some((name, module_data)) = rest.first().zip(all.modules.get(module)).filter(|_| chain > 0) else {
        return module.to_vec();
    };
    let named = module_data.imports.iter().find(|import| import.name == *name);
    if let Some(target) = named.and_then(|import| absolute(all, module, &import.target.path)) {
        return definition(all, [&target[..], &rest[1..]].concat(), chain - 1);
    }
    let globs = module_data.imports.iter().filter(|import| import.name == "*");
    let defining = globs.filter_map(|import| absolute(all, module, &import.target.path)).find(|target| {
        all.modules.get(target).is_some_and(|module| {
            module.items.contains(name) || module.imports.iter().any(|import| import.name == *name)
        })
    });
    match defining {
        Some(target) if !module_data.items.contains(name) => {
            definition(all, [&target[..], rest].concat(), chain - 1)
        }
        _ => module.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::{self, without_tests};

    fn cycles(text: &str, scope: &[&str]) -> Vec<String> {
        let mut all = Crate::default();
        let trees = without_tests(source::lex(text).unwrap());
        all.add(Path::new("lib.rs"), &trees, Vec::new());
        Graph::new(&all, scope).cycles()
    }

    #[test]
    fn a_cycle_is_reported_with_a_place_for_each_edge() {
        let report = cycles(
            "pub mod dma { fn f() {\n crate::sched::wait() } }\n\
             pub mod sched { use crate::user::{Process,\n Task}; pub mod wait {} }\n\
             pub mod user { mod task { fn g() { super::super::dma::free() } } }\n\
             pub mod memory {}",
            &[],
        );
        let expected = [
            "dma -> sched -> user -> dma",
            "  dma -> sched  lib.rs:2 crate::sched::wait",
            "  sched -> user  lib.rs:3 crate::user::Process",
            "  user -> dma  lib.rs:5 super::super::dma::free",
        ];
        assert_eq!(report[..4], expected);
    }

    #[test]
    fn one_way_dependencies_are_not_a_cycle() {
        let text = "mod a { use crate::b; use crate::c::C; } mod b { use super::c; } mod c { pub struct C; }";
        assert_eq!(cycles(text, &[]), [""; 0]);
    }

    #[test]
    fn test_code_is_ignored() {
        let text = "mod a { use crate::b; }\n\
                    mod b { #[cfg(test)] mod tests { use crate::a; } #[cfg(test)] use crate::a::X; pub fn f() {} }";
        assert_eq!(cycles(text, &[]), [""; 0]);
        assert_ne!(cycles(&text.replace("cfg(test)", "cfg(debug)"), &[]), [""; 0]);
    }

    #[test]
    fn a_reexport_counts_as_the_defining_module() {
        let scope = ["dma"];
        let text = |own: &str| {
            format!("mod dma {{ {own} pub struct Own; mod a {{ use super::B; }} mod b {{ pub struct B; }} }}")
        };
        assert_eq!(cycles(&text("pub use b::B;"), &scope), [""; 0]);
        assert_eq!(cycles(&text("pub use b::*;"), &scope), [""; 0]);
        assert_eq!(cycles(&text("pub use b::B; use a::A;"), &scope), [""; 0]);
        let own = text("pub use b::B; use a::A;").replace("use super::B", "use super::Own");
        assert_eq!(cycles(&own, &scope)[0], "a -> mod -> a");
    }
}
