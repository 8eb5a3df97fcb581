//! The arithmetic of buddy allocation: an aligned run of 2^order numbers inside a larger free one.

use core::ops::Range;

/// The first number of the lowest aligned run of 2^`order` numbers that is inside both `wanted` and the free
/// run of 2^`from` numbers at `run`; `None` if there is none.
pub(crate) fn fit(run: u64, from: usize, order: usize, wanted: &Range<u64>) -> Option<u64> {
    let first = run.max(wanted.start.checked_next_multiple_of(1 << order)?);
    let end = wanted.end.min(run + (1 << from));
    (first.checked_add(1 << order)? <= end).then_some(first)
}

/// The rest of a free run of 2^`from` numbers after an allocation of the 2^`order` numbers at `first`: one
/// buddy of each order, by its first number.
pub(crate) fn buddies(first: u64, order: usize, from: usize) -> impl Iterator<Item = (u64, usize)> {
    (order..from).map(move |half| (((first >> half) ^ 1) << half, half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_fits_only_inside_both_ranges() {
        for (wanted, expected) in [
            (0..64, Some(16)),
            (16..20, Some(16)),
            (17..24, Some(20)),
            (17..23, None),
            (0..19, None),
            (28..40, Some(28)),
            (29..40, None),
            (32..64, None),
            (0..0, None),
            (u64::MAX..u64::MAX, None),
        ] {
            assert_eq!(fit(16, 4, 2, &wanted), expected, "{wanted:?}");
        }
    }

    #[test]
    fn buddies_and_the_allocated_run_are_the_free_run() {
        let mut all: Vec<u64> =
            buddies(20, 2, 4).flat_map(|(first, order)| first..first + (1 << order)).collect();
        all.extend(20..24);
        all.sort_unstable();
        assert!(all.into_iter().eq(16..32));
    }
}
