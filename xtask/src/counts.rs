//! The result of a verb, in its last line.

use std::fmt;
use std::ops::AddAssign;
use std::sync::Mutex;

/// The names of the failed tests, in order.
static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The numbers of passed, failed and skipped tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TestCounts {
    /// Ran and passed.
    pub passed: usize,
    /// Ran and failed, or did not report a result.
    pub failed: usize,
    /// Did not run, with a reason.
    pub skipped: usize,
}

impl TestCounts {
    /// One test that passed (`true`) or failed.
    pub fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: 0 }
    }

    /// One test with a name, which is in [`failures`] if it failed.
    pub fn named(name: impl Into<String>, passed: bool) -> Self {
        if !passed {
            record_failure(name);
        }
        Self::one(passed)
    }

    /// No test failed, and at least one passed.
    pub fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Adds a failed test to [`failures`].
pub fn record_failure(name: impl Into<String>) {
    FAILURES.lock().expect("no holder panics").push(name.into());
}

/// The names of the tests that failed so far.
pub fn failures() -> Vec<String> {
    FAILURES.lock().expect("no holder panics").clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_passed_test_is_a_failure() {
        assert!(!TestCounts::default().is_success());
        assert!(!TestCounts { skipped: 3, ..TestCounts::default() }.is_success());
        assert!(TestCounts::one(true).is_success());
    }

    #[test]
    fn named_failures_are_listed() {
        let mut sum = TestCounts::named("passes", true);
        sum += TestCounts::named("case virt: it fails", false);
        assert_eq!(sum, TestCounts { passed: 1, failed: 1, skipped: 0 });
        let listed = failures();
        assert!(listed.iter().any(|name| name == "case virt: it fails"), "{listed:?}");
        assert!(!listed.iter().any(|name| name == "passes"), "{listed:?}");
    }

    #[test]
    fn a_failure_makes_the_sum_fail() {
        let mut sum = TestCounts::one(true);
        sum += TestCounts { passed: 40, failed: 1, skipped: 2 };
        assert_eq!(sum.to_string(), "41 passed, 1 failed, 2 skipped");
        assert!(!sum.is_success());
    }
}
