//! The paths in a module's tokens: `use` declarations with their groups, and paths in code and macro calls.

use proc_macro2::{Delimiter, TokenTree};

/// A path as it is written, with the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub path: Vec<String>,
    pub line: usize,
}

/// The name that a `use` imports into its module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UseImport {
    /// The imported name; `*` for all names of the path's module.
    pub name: String,
    pub target: Reference,
    /// `pub use`, of any visibility.
    pub is_public: bool,
}

/// Adds the imports and the other paths in `trees`.
pub fn read(trees: &[TokenTree], imports: &mut Vec<UseImport>, references: &mut Vec<Reference>) {
    let mut at = 0;
    while at < trees.len() {
        let is_path_before = at >= 2 && is_separator(&trees[at - 2..]);
        match &trees[at] {
            TokenTree::Ident(word) if word == "use" => {
                let end =
                    trees[at..].iter().position(|tree| is_punct(tree, ';')).map_or(trees.len(), |n| at + n);
                let is_public = is_public(&trees[..at]);
                read_use(&trees[at + 1..end], &[], is_public, imports);
                at = end;
            }
            TokenTree::Ident(word) if !is_path_before => {
                let mut path = vec![word.to_string()];
                let line = word.span().start().line;
                while let Some(TokenTree::Ident(next)) =
                    trees.get(at + 3).filter(|_| is_separator(&trees[at + 1..]))
                {
                    path.push(next.to_string());
                    at += 3;
                }
                if path.len() > 1 {
                    references.push(Reference { path, line });
                }
            }
            TokenTree::Group(group) => {
                read(&group.stream().into_iter().collect::<Vec<_>>(), imports, references);
            }
            _ => {}
        }
        at += 1;
    }
}

/// Whether an item after `before` has a visibility: `pub` or `pub(crate)`.
fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |tree: &TokenTree| matches!(tree, TokenTree::Ident(word) if word == "pub");
    match before {
        [.., first, TokenTree::Group(group)] if group.delimiter() == Delimiter::Parenthesis => is_pub(first),
        [.., last] => is_pub(last),
        [] => false,
    }
}

/// A use tree, or several separated by commas, after `prefix`.
fn read_use(trees: &[TokenTree], prefix: &[String], is_public: bool, imports: &mut Vec<UseImport>) {
    for tree in trees.split(|tree| is_punct(tree, ',')) {
        let mut path = prefix.to_vec();
        let mut line = 0;
        let mut name = None;
        let mut rest = tree.iter();
        while let Some(tree) = rest.next() {
            match tree {
                TokenTree::Ident(word) if word == "as" => name = rest.next().map(ToString::to_string),
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {
                    line = line.max(line_of(tree))
                }
                TokenTree::Ident(word) => {
                    path.push(word.to_string());
                    line = line_of(tree);
                }
                TokenTree::Punct(punct) if punct.as_char() == '*' => {
                    name = Some("*".into());
                    line = line_of(tree);
                }
                TokenTree::Group(group) => {
                    read_use(&group.stream().into_iter().collect::<Vec<_>>(), &path, is_public, imports);
                    path.clear();
                }
                _ => {}
            }
        }
        if let Some(last) = path.last() {
            let name = name.unwrap_or_else(|| last.clone());
            imports.push(UseImport { name, target: Reference { path, line }, is_public });
        }
    }
}

fn line_of(tree: &TokenTree) -> usize {
    tree.span().start().line
}

/// Whether `trees` begins with `::`.
fn is_separator(trees: &[TokenTree]) -> bool {
    matches!(trees, [first, second, ..] if is_punct(first, ':') && is_punct(second, ':'))
}

fn is_punct(tree: &TokenTree, text: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    #[test]
    fn nested_groups_aliases_and_globs_are_read() {
        let (mut imports, mut references) = (Vec::new(), Vec::new());
        let text =
            "use crate::{a::{self, B}, c as d};\npub(crate) use super::e::*;\nfn f() { g!(crate::h::i()) }";
        read(&source::lex(text).unwrap(), &mut imports, &mut references);
        let shown: Vec<_> = imports
            .iter()
            .map(|import| {
                format!("{} = {}:{}", import.name, import.target.path.join("::"), import.target.line)
            })
            .collect();
        assert_eq!(shown, ["a = crate::a:1", "B = crate::a::B:1", "d = crate::c:1", "* = super::e:2"]);
        assert_eq!(
            imports.iter().map(|import| import.is_public).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        let path = ["crate", "h", "i"].map(String::from).to_vec();
        assert_eq!(references, [Reference { path, line: 3 }]);
    }
}
