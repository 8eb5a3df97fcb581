//! The patterns of the boot arguments `selftest=` and `bench=`.

/// Whether `name`, in ASCII, matches: `*` stands for any text, `?` for one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut rest, mut left) = (pattern.chars(), name.chars());
    match rest.next() {
        None => name.is_empty(),
        Some('*') => (0..=name.len()).any(|skipped| matches(rest.as_str(), &name[skipped..])),
        Some(wanted) => {
            left.next().is_some_and(|c| wanted == '?' || wanted == c) && matches(rest.as_str(), left.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_the_kernel() {
        for (pattern, name, is_match) in [
            ("alloc", "alloc", true),
            ("alloc", "frag_alloc", false),
            ("*alloc", "frag_alloc", true),
            ("map_*", "map_sg", true),
            ("m*_s*", "map_single", true),
            ("map_*", "mmap", false),
            ("m?ap", "mmap", true),
            ("", "mmap", false),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }
}
