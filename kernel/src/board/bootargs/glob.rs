//! Glob patterns for names of tests, benchmarks and fault classes.

use core::fmt;

/// Comma-separated patterns: `*` matches any text, `?` any one character, any other character itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glob<'a>(&'a str);

impl<'a> Glob<'a> {
    /// The pattern that matches every name.
    pub const ALL: Glob<'static> = Glob("*");

    /// The patterns in `text`.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Whether one of the patterns matches the whole `name`. The time is at most proportional to the product
    /// of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        self.0.split(',').any(|pattern| matches(pattern, name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut rest) = (pattern.chars(), name.chars());
    // Backtracking point: the pattern after the last star, and the text after the star's match.
    let mut backtrack = None;
    loop {
        match (rest.clone().next(), pattern.next()) {
            (None, None) => return true,
            (_, Some('*')) => backtrack = Some((pattern.clone(), rest.clone())),
            (Some(actual), Some(expected)) if expected == '?' || expected == actual => drop(rest.next()),
            _ => {
                // The star matches one character more.
                let Some((after_star, unmatched)) = &mut backtrack else { return false };
                if unmatched.next().is_none() {
                    return false;
                }
                (pattern, rest) = (after_star.clone(), unmatched.clone());
            }
        }
    }
}

impl fmt::Display for Glob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reference implementation, in exponential time.
    fn reference(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|skip| reference(rest, &name[skip..])),
            [expected, rest @ ..] => match name {
                [actual, left @ ..] => (*expected == '?' || expected == actual) && reference(rest, left),
                [] => false,
            },
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("smmu", "smmu", true),
            ("smmu", "smmu.edu", false),
            ("smmu*", "smmu.edu", true),
            ("*.edu", "smmu.edu", true),
            ("s?mu.*", "smmu.edu", true),
            ("?", "", false),
            ("?", "é", true),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c", "abcab", false),
            ("**", "x", true),
            ("a*,b", "b", true),
            ("a*,b", "ab", true),
            ("a*,b", "c", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(name), expected, "{pattern} {name}");
        }
        assert_eq!(Glob::ALL.to_string(), "*");
    }

    proptest! {
        #[test]
        fn matcher_agrees_with_the_reference(pattern in "[ab*?]{0,6}", name in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), reference(&chars(&pattern), &chars(&name)));
        }
    }
}
