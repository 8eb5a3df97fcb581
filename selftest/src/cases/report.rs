//! The KTAP report (version 1 of Linux's `Documentation/dev-tools/ktap.rst` format).

use super::{Outcome, Verdict};
use kernel::kprintln;

/// A report in progress.
pub struct Report {
    number: usize,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Prints the version and the plan.
    pub fn start(tests: usize) -> Self {
        kprintln!("KTAP version 1");
        kprintln!("1..{tests}");
        Self { number: 0, passed: 0, failed: 0, skipped: 0 }
    }

    /// Prints the observation and the result of a test.
    pub fn add(&mut self, name: &str, outcome: Outcome) {
        self.number += 1;
        let number = self.number;
        match outcome {
            Ok(Verdict::Pass(seen)) => {
                self.passed += 1;
                note(&seen);
                kprintln!("ok {number} {name}");
            }
            Ok(Verdict::Skip(why)) => {
                self.skipped += 1;
                kprintln!("ok {number} {name} # SKIP {why}");
            }
            Err(seen) => {
                self.failed += 1;
                note(&seen);
                kprintln!("not ok {number} {name}");
            }
        }
    }

    /// Prints the totals. Returns whether no test failed.
    pub fn finish(self) -> bool {
        kprintln!("# totals: pass:{} fail:{} skip:{}", self.passed, self.failed, self.skipped);
        self.failed == 0
    }
}

fn note(seen: &str) {
    for line in seen.lines() {
        kprintln!("# {line}");
    }
}
