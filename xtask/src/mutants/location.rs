//! The location of a mutant: an item of a file by its path, and code in it by its tokens.
//!
//! A reworded comment, a reformatted line or a moved item leaves it valid; a changed statement does not.

use std::ops::Range;

use proc_macro2::TokenTree;

use super::list::SourceMutant;
use crate::error::{Error, Result};
use crate::source::{self, Token};

/// The bytes of `text`, the file's, that `mutant` replaces.
///
/// # Errors
/// The file has no such item, or the item has the code not exactly once.
pub fn find(mutant: &SourceMutant, text: &str) -> Result<Range<usize>> {
    let is_assembly = mutant.file.ends_with(".s");
    let wanted = if is_assembly { assembly(mutant.from) } else { source::tokens(&source::lex(mutant.from)?) };
    let items = if is_assembly { labelled(text, mutant.item) } else { items(text, mutant.item)? };
    let places: Vec<_> = items.iter().flat_map(|item| matches(item, &wanted)).collect();
    match &places[..] {
        [place] => Ok(place.clone()),
        _ => Err(Error::Missing(format!(
            "{}: {:?} occurs {} times in {} ({} items have that path)",
            mutant.file,
            mutant.from,
            places.len(),
            mutant.item,
            items.len()
        ))),
    }
}

/// The byte ranges of `wanted` in `item`.
fn matches(item: &[Token], wanted: &[Token]) -> Vec<Range<usize>> {
    let is_equal = |run: &&[Token]| run.iter().zip(wanted).all(|(token, other)| token.text == other.text);
    let runs = item.windows(wanted.len()).filter(is_equal);
    runs.map(|run| run[0].bytes.start..run[run.len() - 1].bytes.end).collect()
}

/// The tokens of each item whose path ends with `path`.
fn items(text: &str, path: &str) -> Result<Vec<Vec<Token>>> {
    let mut found = Vec::new();
    let path: Vec<&str> = path.split("::").collect();
    collect(&source::lex(text)?, &mut Vec::new(), &path, &mut found);
    Ok(found)
}

fn collect(trees: &[TokenTree], outer: &mut Vec<String>, path: &[&str], found: &mut Vec<Vec<Token>>) {
    for item in source::items(trees) {
        outer.push(item.name);
        let start = outer.len().saturating_sub(path.len());
        if outer[start..] == *path {
            found.push(source::tokens(&item.trees));
        }
        let body = item.body.unwrap_or_default();
        collect(&body.into_iter().collect::<Vec<_>>(), outer, path, found);
        outer.pop();
    }
}

/// The tokens from a label of an assembly file to the next.
fn labelled(text: &str, label: &str) -> Vec<Vec<Token>> {
    let tokens = assembly(text);
    let is_label = |index: usize| {
        tokens[index].text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && tokens.get(index + 1).is_some_and(|next| next.text == ":")
    };
    let starts = (0..tokens.len()).filter(|&index| is_label(index) && tokens[index].text == label);
    starts
        .map(|start| {
            let end = (start + 1..tokens.len()).find(|&index| is_label(index)).unwrap_or(tokens.len());
            tokens[start..end].to_vec()
        })
        .collect()
}

/// Words and single characters, without comments.
fn assembly(text: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '\\';
    let mut tokens: Vec<Token> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split("//").next().unwrap_or(line);
        for (at, c) in code.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            let bytes = start + at..start + at + c.len_utf8();
            match tokens.last_mut() {
                Some(last) if last.bytes.end == bytes.start && is_word(c) && last.text.ends_with(is_word) => {
                    last.text.push(c);
                    last.bytes.end = bytes.end;
                }
                _ => tokens.push(Token { text: c.into(), bytes }),
            }
        }
        start += line.len();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::oracle::Oracle;

    const RUST: &str = "\
        impl Queue {\n    /// Pushes.\n    fn push(&mut self) {\n        // The barrier first.\n        \
        barrier(1 << 2);\n        self.ring()\n    }\n    fn pop(&mut self) { barrier(4) }\n}\n\
        impl Drop for Queue { fn drop(&mut self) { self.ring() } }\nfn ring() {}\n";

    fn replaced(file: &'static str, item: &'static str, from: &'static str, text: &str) -> Result<String> {
        let mutant = SourceMutant { name: "", file, item, from, to: "", oracle: Oracle::Smmu };
        let mut text = text.to_owned();
        text.replace_range(find(&mutant, &text)?, "X");
        Ok(text)
    }

    #[test]
    fn comments_and_layout_do_not_affect_the_location() {
        let from = "barrier(1 << 2); self.ring()";
        let changed = replaced("a.rs", "Queue::push", from, RUST).unwrap();
        assert!(changed.contains("// The barrier first.\n        X\n    }"), "{changed}");
        let other = RUST
            .replace("barrier(1 << 2);\n", "barrier(\n 1 /* why */ << 2,\n // then\n);")
            .replace("2,", "2");
        assert!(replaced("a.rs", "Queue::push", from, &other).is_ok());
    }

    #[test]
    fn only_the_named_item_is_searched() {
        for (item, from, is_found) in [
            ("Queue::pop", "barrier(4)", true),
            ("Queue::pop", "barrier(1 << 2)", false),
            ("Queue", "barrier", false),
            ("Queue::drop", "self.ring()", true),
            ("Queue::ring", "ring", false),
            ("drop", "self.ring()", true),
            ("ring", "fn ring() {}", true),
        ] {
            assert_eq!(replaced("a.rs", item, from, RUST).is_ok(), is_found, "{item}: {from}");
        }
    }

    #[test]
    fn assembly_is_searched_from_label_to_label() {
        let text = "first:\n  mov x0, x1   // copy\n  ret\nsecond:\n  mov x0, x1\n1:\n  ret\n";
        let changed = replaced("a.s", "second", "mov x0,x1", text).unwrap();
        assert_eq!(changed, text.replace("second:\n  mov x0, x1", "second:\n  X"));
        assert!(replaced("a.s", "second", "ret", text).is_ok());
        assert!(replaced("a.s", "third", "ret", text).is_err());
    }
}
