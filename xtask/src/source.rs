//! Rust source as tokens and items, for the checks that read the workspace's own code.
//!
//! Comments, doc comments and layout are not tokens, so that a comparison of tokens does not depend on them.

use std::ops::Range;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

use crate::error::{Error, Result};

/// A token, or one delimiter of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub text: String,
    /// Its bytes in the text.
    pub bytes: Range<usize>,
}

/// An item: its name, its tokens from the keyword on, and the group that holds its items, if it is a
/// container.
#[derive(Debug)]
pub struct Item {
    /// `fn`, `struct`, `impl` ...
    pub keyword: String,
    /// The name; for `impl`, the last segment of the self type.
    pub name: String,
    pub trees: Vec<TokenTree>,
    /// The body of an `impl`, a `mod` or a `trait`.
    pub body: Option<TokenStream>,
}

/// The token trees of `text`.
///
/// # Errors
/// `text` has unbalanced delimiters, or a character that starts no token.
pub fn lex(text: &str) -> Result<Vec<TokenTree>> {
    let stream: TokenStream =
        text.parse().map_err(|error| Error::Missing(format!("not Rust tokens ({error}): {text:.60}")))?;
    Ok(without_documentation(stream))
}

/// The tokens of `trees` in order, with the delimiters of groups.
pub fn tokens(trees: &[TokenTree]) -> Vec<Token> {
    let mut tokens = Vec::new();
    flatten(trees, &mut tokens);
    tokens
}

fn flatten(trees: &[TokenTree], tokens: &mut Vec<Token>) {
    for tree in trees {
        let TokenTree::Group(group) = tree else {
            tokens.push(token(tree.to_string(), tree.span()));
            continue;
        };
        let (open, close) = delimiters(group.delimiter());
        tokens.push(token(open.into(), group.span_open()));
        flatten(&without_documentation(group.stream()), tokens);
        tokens.push(token(close.into(), group.span_close()));
    }
}

fn token(text: String, span: Span) -> Token {
    Token { text, bytes: span.byte_range() }
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

/// A lexed doc comment is an attribute, `#[doc = "..."]` or `#![doc = "..."]`.
fn without_documentation(stream: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    for tree in stream {
        if !is_documentation(&tree) {
            kept.push(tree);
            continue;
        }
        while kept.last().is_some_and(|tree| is_punct(tree, '!') || is_punct(tree, '#')) {
            kept.pop();
        }
    }
    kept
}

fn is_documentation(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket
        && group.stream().into_iter().next().is_some_and(|first| is_word(&first, "doc")))
}

/// Drops each item with `#[cfg(test)]`, at every depth.
pub fn without_tests(trees: Vec<TokenTree>) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut trees = trees.into_iter();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Group(group) if is_test_attribute(&group) => {
                kept.pop();
                let is_end = |tree: &TokenTree| match tree {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(punct) => [';', ','].contains(&punct.as_char()),
                    _ => false,
                };
                trees.by_ref().find(is_end);
            }
            TokenTree::Group(group) => {
                let inner = without_tests(group.stream().into_iter().collect());
                let mut new = Group::new(group.delimiter(), inner.into_iter().collect());
                new.set_span(group.span());
                kept.push(new.into());
            }
            other => kept.push(other),
        }
    }
    kept
}

fn is_test_attribute(group: &Group) -> bool {
    let text: String = tokens(&[group.clone().into()]).into_iter().map(|token| token.text).collect();
    text == "[cfg(test)]" || text.starts_with("[cfg(all(test,")
}

/// The items among `trees`, those of one level.
pub fn items(trees: &[TokenTree]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < trees.len() {
        match item_at(&trees[at..]) {
            Some(item) => {
                at += item.trees.len();
                items.push(item);
            }
            None => at += 1,
        }
    }
    items
}

fn item_at(trees: &[TokenTree]) -> Option<Item> {
    let TokenTree::Ident(keyword) = trees.first()? else { return None };
    let keyword = keyword.to_string();
    let (name, end) = match keyword.as_str() {
        "impl" => {
            let body = trees.iter().position(is_brace)?;
            (self_type(&trees[1..body])?, body)
        }
        "macro_rules" => (word(trees.get(2)?)?, trees.iter().position(is_brace)?),
        "fn" | "mod" | "trait" | "struct" | "enum" | "union" => {
            (word(trees.get(1)?)?, trees.iter().position(|tree| is_brace(tree) || is_punct(tree, ';'))?)
        }
        "const" | "static" | "type" => {
            let name = trees[1..].iter().filter_map(word).find(|word| word != "mut")?;
            // `const fn`, `const unsafe fn`: the item is the function.
            if ["fn", "unsafe", "async", "extern"].contains(&name.as_str()) {
                return None;
            }
            (name, trees.iter().position(|tree| is_punct(tree, ';'))?)
        }
        _ => return None,
    };
    let body = match &trees[end] {
        TokenTree::Group(body) if ["impl", "mod", "trait"].contains(&keyword.as_str()) => Some(body.stream()),
        _ => None,
    };
    Some(Item { keyword, name, trees: trees[..=end].to_vec(), body })
}

/// The last segment of the self type in the header of an `impl`.
fn self_type(header: &[TokenTree]) -> Option<String> {
    let (mut depth, mut name, mut arrow) = (0, None, false);
    for (index, tree) in header.iter().enumerate() {
        match tree {
            TokenTree::Punct(punct) if punct.as_char() == '<' => depth += 1,
            TokenTree::Punct(punct) if punct.as_char() == '>' && !arrow => depth -= 1,
            TokenTree::Ident(ident) if depth == 0 => match ident.to_string().as_str() {
                "where" => break,
                // Not `for<'a>`.
                "for" if !header.get(index + 1).is_some_and(|next| is_punct(next, '<')) => name = None,
                text => name = Some(text.to_owned()),
            },
            _ => {}
        }
        arrow = is_punct(tree, '-');
    }
    name
}

fn word(tree: &TokenTree) -> Option<String> {
    match tree {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_word(tree: &TokenTree, text: &str) -> bool {
    matches!(tree, TokenTree::Ident(ident) if ident == text)
}

fn is_punct(tree: &TokenTree, text: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == text)
}

fn is_brace(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(&lex(text).unwrap()).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_layout_are_not_tokens() {
        let plain = texts("fn f(a: u8) -> u8 { a + 1 }");
        assert_eq!(
            texts("/// Adds.\nfn f(\n  a: u8, // the addend\n) -> u8 {\n a /* + 2 */ + 1 }").len(),
            plain.len() + 1
        );
        assert_eq!(texts("//! A module.\n/** Adds. */ fn f(a:u8)->u8{a+1}"), plain);
    }

    #[test]
    fn items_are_named() {
        let table = [
            ("pub const fn f<const N: usize>() -> [u8; N] { [0; N] }", "f"),
            ("impl<'a, F: Fn() -> u8> Table<'a, F> where F: Copy {}", "Table"),
            ("unsafe impl<T> Send for super::Queue<T> {}", "Queue"),
            ("impl<F: for<'a> Fn(&'a u8)> Shared<F> for &mut Commands {}", "Commands"),
            ("static mut X: [u8; 2] = [0; 2];", "X"),
            ("const A: Stat = Stat { dev: 1 };", "A"),
            ("macro_rules! m { () => {}; }", "m"),
        ];
        for (text, name) in table {
            let found = items(&lex(text).unwrap());
            assert_eq!(found.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), [name], "{text}");
        }
    }

    #[test]
    fn bytes_count_from_the_start_of_the_text() {
        lex("some_earlier_text").unwrap();
        let text = "// ä\nfn f() { g(1) }";
        let found = tokens(&lex(text).unwrap());
        let g = found.iter().find(|token| token.text == "g").unwrap();
        assert_eq!(&text[g.bytes.clone()], "g");
    }
}
