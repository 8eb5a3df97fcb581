//! How many self-tests each machine skips, written down in `xtask/skips.tsv`: a device that is silently lost, or a test
//! that no longer runs anywhere, shows as another number.

use crate::tally::Tally;

const TABLE: &str = include_str!("../skips.tsv");

/// What is wrong with the count of this case, if anything is. A run in which something failed may have ended early, and
/// has other complaints.
pub fn complaints(case: &str, tally: &Tally) -> Vec<String> {
    let expected = expected(TABLE, case);
    if tally.failed > 0 || tally.skipped == expected {
        return Vec::new();
    }
    let found = tally.skipped;
    vec![format!("{found} skipped, {expected} expected: if that is right, say so in xtask/skips.tsv")]
}

/// The number in the case's line; 0 without one.
fn expected(table: &str, case: &str) -> usize {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut found = lines.filter_map(|line| line.split_once('\t')).filter(|(name, _)| *name == case);
    found.next().and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::CASES;

    #[test]
    fn every_line_is_about_a_case_and_a_number() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.split_once('\t').expect(line);
            assert!(CASES.iter().any(|case| case.name == name), "{name}");
            assert!(number.parse::<usize>().is_ok_and(|number| number > 0), "{line}");
        }
    }

    #[test]
    fn another_number_is_complained_about() {
        let table = "# case\tskipped\nvirt-x\t3\n";
        assert_eq!((expected(table, "virt-x"), expected(table, "virt-y")), (3, 0));
        let tally = |failed, skipped| Tally { passed: 1, failed, skipped };
        assert_eq!(complaints("no such case", &tally(0, 0)), [""; 0]);
        assert_eq!(complaints("no such case", &tally(0, 2)).len(), 1);
        assert_eq!(complaints("no such case", &tally(1, 2)), [""; 0]);
    }
}
