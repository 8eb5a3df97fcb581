//! The fill pattern: a different value for every word, so that misplaced data is detected.

/// A block copied within the buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopiedBlock {
    /// The first source word.
    pub from: usize,
    /// The first destination word.
    pub to: usize,
    /// The length in words.
    pub words: usize,
}

/// The fill value at `index`. Unique, since the factor is odd.
pub fn word(index: usize) -> u64 {
    (index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The expected value at `index` after the copy `moved`.
#[inline]
pub fn expected(index: usize, moved: Option<CopiedBlock>) -> u64 {
    match moved {
        Some(CopiedBlock { from, to, words }) if (to..to + words).contains(&index) => word(from + index - to),
        _ => word(index),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fill_values_are_unique_and_nonzero() {
        let words: BTreeSet<u64> = (0..10_000).map(word).collect();
        assert_eq!(words.len(), 10_000);
        assert!(!words.contains(&0));
    }

    #[test]
    fn only_the_copied_block_differs_from_the_fill() {
        let moved = Some(CopiedBlock { from: 100, to: 7, words: 3 });
        assert_eq!((6..11).map(|i| expected(i, moved)).collect::<Vec<_>>(), [6, 100, 101, 102, 10].map(word));
        assert_eq!(expected(100, moved), word(100));
    }
}
