//! What the buffer is filled with: every word tells where it belongs, so no two places can be mistaken.

/// A piece that was copied inside the buffer.
#[derive(Clone, Copy, Debug)]
pub struct CopiedBlock {
    /// First word it was taken from.
    pub from: usize,
    /// First word it was written to.
    pub to: usize,
    /// Its length in words.
    pub words: usize,
}

/// The word that belongs at `index`. An odd factor makes it different for every index.
pub fn word(index: usize) -> u64 {
    (index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What stands at `index` once `moved` was copied.
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
    fn words_differ_and_none_is_zero() {
        let words: BTreeSet<u64> = (0..10_000).map(word).collect();
        assert_eq!(words.len(), 10_000);
        assert!(!words.contains(&0));
    }

    #[test]
    fn only_the_copied_piece_is_expected_elsewhere() {
        let moved = Some(CopiedBlock { from: 100, to: 7, words: 3 });
        assert_eq!((6..11).map(|i| expected(i, moved)).collect::<Vec<_>>(), [6, 100, 101, 102, 10].map(word));
        assert_eq!(expected(100, moved), word(100));
    }
}
