//! The number of self-tests that each machine skips, recorded in `xtask/skips.tsv`: a lost device, or a test
//! that no longer runs on any machine, changes it.

use crate::counts::TestCounts;

const TABLE: &str = include_str!("../skips.tsv");

/// The failure if the case skipped a different number of self-tests. A run with failures may have ended early
/// and is not compared.
pub fn failures(case: &str, counts: &TestCounts) -> Vec<String> {
    compare(number(TABLE, case), counts)
}

fn compare(expected: Option<usize>, counts: &TestCounts) -> Vec<String> {
    let found = counts.skipped;
    match expected {
        Some(expected) if counts.failed == 0 && expected != found => {
            vec![format!("{found} skipped, {expected} expected: if {found} is right, change xtask/skips.tsv")]
        }
        _ => Vec::new(),
    }
}

/// The number in the case's line of a table, if it has a line.
pub fn number(table: &str, case: &str) -> Option<usize> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut found = lines.filter_map(|line| line.split_once('\t')).filter(|(name, _)| *name == case);
    found.next()?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::cases;

    #[test]
    fn every_line_names_a_case_and_a_number() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.split_once('\t').expect(line);
            assert!(cases().any(|case| case.name == name), "{name}");
            assert!(number.parse::<usize>().is_ok(), "{line}");
        }
    }

    #[test]
    fn a_different_number_of_skips_fails() {
        let table = "# case\tskipped\nvirt-x\t3\n";
        assert_eq!((number(table, "virt-x"), number(table, "virt-y")), (Some(3), None));
        let counts = |failed, skipped| TestCounts { passed: 1, failed, skipped };
        assert_eq!(compare(Some(3), &counts(0, 2)).len(), 1);
        assert_eq!(compare(Some(3), &counts(0, 3)), [""; 0]);
        assert_eq!(compare(Some(3), &counts(1, 2)), [""; 0]);
        assert_eq!(compare(None, &counts(0, 2)), [""; 0]);
    }
}
