//! Patterns for names.

use core::fmt;

/// Patterns with commas between them: `*` stands for any text, `?` for any one character, everything else for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glob<'a>(&'a str);

impl<'a> Glob<'a> {
    /// The pattern that matches every name.
    pub const ALL: Glob<'static> = Glob("*");

    /// The pattern `text`.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Whether one of them matches the whole of `name`. Takes at most time in proportion to the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        self.0.split(',').any(|pattern| matches(pattern, name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut rest) = (pattern.chars(), name.chars());
    // Behind the last star: the pattern, and the text that the star has not swallowed yet.
    let mut retry = None;
    loop {
        let (here, wanted) = (rest.clone().next(), pattern.next());
        match (here, wanted) {
            (None, None) => return true,
            (_, Some('*')) => retry = Some((pattern.clone(), rest.clone())),
            (Some(character), Some(own)) if own == '?' || own == character => drop(rest.next()),
            _ => {
                let Some((star, swallowed)) = &mut retry else { return false };
                if swallowed.next().is_none() {
                    return false;
                }
                (pattern, rest) = (star.clone(), swallowed.clone());
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

    /// The definition, in exponential time.
    fn defined(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|skip| defined(rest, &name[skip..])),
            [own, rest @ ..] => match name {
                [first, left @ ..] => (*own == '?' || own == first) && defined(rest, left),
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
        fn the_matcher_agrees_with_the_definition(pattern in "[ab*?]{0,6}", name in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), defined(&chars(&pattern), &chars(&name)));
        }
    }
}
