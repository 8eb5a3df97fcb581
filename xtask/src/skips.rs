//! How many self-tests each machine skips, written down in `xtask/skips.tsv`: a device that is silently lost, or a test
//! that no longer runs anywhere, shows as another number.

use crate::counts::TestCounts;

const TABLE: &str = include_str!("../skips.tsv");

/// What is wrong with the count of this case, if anything is. A run in which something failed may have ended early, and
/// has other failures.
pub fn failures(case: &str, counts: &TestCounts) -> Vec<String> {
    compare(expected(TABLE, case), counts)
}

fn compare(expected: Option<usize>, counts: &TestCounts) -> Vec<String> {
    let found = counts.skipped;
    match expected {
        Some(expected) if counts.failed == 0 && expected != found => {
            vec![format!("{found} skipped, {expected} expected: if that is right, say so in xtask/skips.tsv")]
        }
        _ => Vec::new(),
    }
}

/// The number in the case's line, if it has one.
fn expected(table: &str, case: &str) -> Option<usize> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut found = lines.filter_map(|line| line.split_once('\t')).filter(|(name, _)| *name == case);
    found.next()?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::cases;

    #[test]
    fn every_line_is_about_a_case_and_a_number() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.split_once('\t').expect(line);
            assert!(cases().any(|case| case.name == name), "{name}");
            assert!(number.parse::<usize>().is_ok(), "{line}");
        }
    }

    #[test]
    fn another_number_is_complained_about() {
        let table = "# case\tskipped\nvirt-x\t3\n";
        assert_eq!((expected(table, "virt-x"), expected(table, "virt-y")), (Some(3), None));
        let counts = |failed, skipped| TestCounts { passed: 1, failed, skipped };
        assert_eq!(compare(Some(3), &counts(0, 2)).len(), 1);
        assert_eq!(compare(Some(3), &counts(0, 3)), [""; 0]);
        assert_eq!(compare(Some(3), &counts(1, 2)), [""; 0]);
        assert_eq!(compare(None, &counts(0, 2)), [""; 0]);
    }
}
