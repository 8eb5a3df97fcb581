//! The syntax of the command line: arguments and quotes.

use core::fmt;

/// An argument: `NAME` or `NAME=VALUE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootArgument<'a> {
    /// The text before the first `=`.
    pub name: &'a str,
    /// The text after it.
    pub value: Option<&'a str>,
}

impl<'a> BootArgument<'a> {
    /// Splits `word`, and removes the quotes around it or around its value. Others are part of the text.
    fn new(word: &'a str) -> Self {
        let is_quoted = word.starts_with('"');
        let word = word.strip_prefix('"').unwrap_or(word);
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let without_end = |text: &'a str| text.strip_suffix('"').unwrap_or(text);
        match value {
            Some(value) => match value.strip_prefix('"') {
                Some(value) => Self { name, value: Some(without_end(value)) },
                None if is_quoted => Self { name, value: Some(without_end(value)) },
                None => Self { name, value: Some(value) },
            },
            None if is_quoted => Self { name: without_end(name), value },
            None => Self { name, value },
        }
    }
}

impl fmt::Display for BootArgument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The arguments of a command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CommandLine<'a>(&'a str);

impl<'a> CommandLine<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Returns the arguments before and after the first `--`.
    pub(super) fn split_at_dashes(self) -> (Self, Self) {
        let mut rest = self;
        loop {
            let before = self.0.len() - rest.0.len();
            match rest.next() {
                Some(BootArgument { name: "--", value: None }) => return (Self(&self.0[..before]), rest),
                Some(_) => {}
                None => return (self, rest),
            }
        }
    }
}

impl<'a> Iterator for CommandLine<'a> {
    type Item = BootArgument<'a>;

    fn next(&mut self) -> Option<BootArgument<'a>> {
        let text = self.0.trim_start();
        let mut is_quoted = false;
        let ends_word = |c: char| {
            is_quoted ^= c == '"';
            c.is_whitespace() && !is_quoted
        };
        let (word, rest) = text.split_at(text.find(ends_word).unwrap_or(text.len()));
        self.0 = rest;
        (!word.is_empty()).then(|| BootArgument::new(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_those_of_linux() {
        // Text, name and value: results of Linux's `next_arg`.
        let cases = [
            ("a", "a", None),
            ("a=b=c", "a", Some("b=c")),
            ("a=", "a", Some("")),
            (r#""a b""#, "a b", None),
            (r#""a b=c d""#, "a b", Some("c d")),
            (r#"a="b c""#, "a", Some("b c")),
            (r#"a="b c"#, "a", Some("b c")),
            (r#""a b"#, "a b", None),
            (r#"a" "b"#, r#"a" "b"#, None),
            (r#"a=b" "c"#, "a", Some(r#"b" "c"#)),
            (r#"a=b" ""#, "a", Some(r#"b" ""#)),
            (r#"a="""#, "a", Some("")),
        ];
        for (text, name, value) in cases {
            let both = format!(" {text}");
            assert_eq!(CommandLine(&both).collect::<Vec<_>>(), [BootArgument { name, value }], "{text}");
        }
        assert_eq!(CommandLine(" \t\n").next(), None);
    }
}
