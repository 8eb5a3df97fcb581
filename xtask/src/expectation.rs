//! Checks a console against the expectation of its case.
//!
//! A KTAP run must announce its plan, keep it, sum it up, and end by powering off.

use std::collections::BTreeSet;

use crate::counts::TestCounts;
use crate::qemu::{QemuExit, QemuRun};

/// The expected console of a case.
#[derive(Clone, Copy, Debug)]
pub enum ConsoleExpectation {
    /// A KTAP report in which nothing fails, on a guest that powers off.
    Ktap,
    /// The same, without skips: the machine has every device.
    KtapWithoutSkips,
    /// The same from a guest that cannot power off: it is stopped after its totals.
    KtapThenHalt,
    /// The texts of `shown` in this order, none of `never`, then power off.
    PowerOff { shown: &'static [&'static str], never: &'static [&'static str] },
    /// The texts of `shown` in this order; the guest halts and is stopped after the last one.
    Halt { shown: &'static [&'static str] },
}

/// The result of one run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CaseResult {
    /// One test for each KTAP result, or one for the whole run.
    pub counts: TestCounts,
    /// The reasons for the failures.
    pub failures: Vec<String>,
}

const PANIC: &str = "kernel panic:";
const TOTALS: &str = "# totals:";

impl ConsoleExpectation {
    /// Whether this line is the last one of a halting guest.
    pub fn is_last(self, line: &str) -> bool {
        match self {
            Self::KtapThenHalt => line.starts_with(TOTALS),
            Self::Halt { shown } => shown.last().is_some_and(|last| line.contains(last)),
            Self::Ktap | Self::KtapWithoutSkips | Self::PowerOff { .. } => false,
        }
    }

    /// Checks a finished run.
    pub fn evaluate(self, run: &QemuRun) -> CaseResult {
        let expected_exit = match self {
            Self::Ktap | Self::KtapWithoutSkips | Self::PowerOff { .. } => QemuExit::PoweredOff,
            Self::KtapThenHalt | Self::Halt { .. } => QemuExit::Stopped,
        };
        let mut result = match self {
            Self::Ktap | Self::KtapThenHalt => Ktap::read(&run.console).result(),
            Self::KtapWithoutSkips => Ktap::read(&run.console).without_skips().result(),
            Self::PowerOff { shown, never } => text(&run.console, shown, never),
            Self::Halt { shown } => text(&run.console, shown, &[PANIC]),
        };
        if run.exit != expected_exit {
            result.failures.push(exit_failure(run.exit));
        }
        result.count_failures(matches!(self, Self::PowerOff { .. } | Self::Halt { .. }))
    }
}

impl CaseResult {
    /// The same with more failures; any of them makes a passed result a failed one.
    pub fn and(mut self, failures: Vec<String>) -> Self {
        if !failures.is_empty() && self.counts.failed == 0 {
            self.counts =
                TestCounts { failed: 1, passed: self.counts.passed.saturating_sub(1), ..self.counts };
        }
        self.failures.extend(failures);
        self
    }

    /// A failure without a failed test counts as one; a run that counts as a whole has one test.
    fn count_failures(mut self, whole: bool) -> Self {
        if !self.failures.is_empty() && self.counts.failed == 0 {
            self.counts.failed = 1;
            self.counts.passed -= usize::from(whole);
        }
        self
    }
}

/// The failure of a run that ended like this.
pub fn exit_failure(exit: QemuExit) -> String {
    match exit {
        QemuExit::PoweredOff => "powered off before its last line".into(),
        QemuExit::Failed(Some(code)) => format!("QEMU ended with status {code}"),
        QemuExit::Failed(None) => "QEMU was killed by a signal".into(),
        QemuExit::TimedOut(limit) => format!("still running after {} s", limit.as_secs()),
        QemuExit::Stopped => "stopped before it powered off".into(),
        QemuExit::OutputLimit => "the output exceeds its limit".into(),
    }
}

fn text(console: &str, shown: &[&str], never: &[&str]) -> CaseResult {
    let mut failures = Vec::new();
    let mut rest = console;
    for piece in shown {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => failures.push(format!("not shown in this order: {piece}")),
        }
    }
    let forbidden = never.iter().filter(|piece| console.contains(**piece));
    failures.extend(forbidden.map(|piece| format!("shown but forbidden: {piece}")));
    CaseResult { counts: TestCounts::one(failures.is_empty()), failures }
}

/// A KTAP report, possibly incomplete.
#[derive(Default)]
struct Ktap {
    plan: Option<usize>,
    seen: BTreeSet<usize>,
    counts: TestCounts,
    skips: Vec<String>,
    /// The notes of the current test.
    notes: Vec<String>,
    totals: Option<TestCounts>,
    failures: Vec<String>,
}

impl Ktap {
    fn read(console: &str) -> Self {
        let mut report = Self::default();
        console.lines().for_each(|line| report.line(line));
        report
    }

    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("not ok ") {
            self.add_result(rest, false);
        } else if let Some(rest) = line.strip_prefix("ok ") {
            self.add_result(rest, true);
        } else if let Some(count) = line.strip_prefix("1..").and_then(|rest| rest.trim().parse().ok()) {
            self.planned(count);
        } else if let Some(rest) = line.strip_prefix(TOTALS) {
            self.summed(rest);
        } else if let Some(note) = line.strip_prefix("# ") {
            self.notes.push(note.to_owned());
        } else if line.contains(PANIC) {
            self.failures.push(line.trim().to_owned());
        }
    }

    fn planned(&mut self, count: usize) {
        if self.plan.replace(count).is_some() {
            self.failures.push("the plan is announced twice".into());
        }
    }

    fn add_result(&mut self, rest: &str, ok: bool) {
        let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
        let Ok(number) = number.parse() else {
            return self.failures.push(format!("a result without a number: {rest}"));
        };
        if !self.seen.insert(number) {
            self.failures.push(format!("result {number} is given twice"));
        }
        match (ok, skip_reason(name)) {
            (false, _) => self.failed(name),
            (true, None) => self.counts.passed += 1,
            (true, Some("")) => self.failed(&format!("{name} (a skip without a reason)")),
            (true, Some(_)) => {
                self.counts.skipped += 1;
                self.skips.push(name.trim_start_matches("- ").to_owned());
            }
        }
        self.notes.clear();
    }

    fn without_skips(mut self) -> Self {
        self.failures.extend(
            self.skips.drain(..).map(|name| format!("skipped on the machine with every device: {name}")),
        );
        self
    }

    fn failed(&mut self, name: &str) {
        self.counts.failed += 1;
        self.failures.push(format!("not ok: {}", name.trim_start_matches("- ")));
        self.failures.extend(self.notes.drain(..).map(|note| format!("  {note}")));
    }

    fn summed(&mut self, rest: &str) {
        let mut totals = TestCounts::default();
        for word in rest.split_whitespace() {
            match word.split_once(':').map(|(key, count)| (key, count.parse())) {
                Some(("pass", Ok(count))) => totals.passed = count,
                Some(("fail", Ok(count))) => totals.failed = count,
                Some(("skip", Ok(count))) => totals.skipped = count,
                _ => self.failures.push(format!("unreadable totals: {rest}")),
            }
        }
        self.totals = Some(totals);
    }

    fn result(mut self) -> CaseResult {
        match self.plan {
            None => self.failures.push("no plan (1..N) was announced".into()),
            Some(0) => self.failures.push("the plan is empty".into()),
            Some(plan) => self.check_plan(plan),
        }
        match self.totals {
            None => self.failures.push(format!("no `{TOTALS}` line")),
            Some(totals) if !self.agrees(totals) => {
                self.failures.push(format!("the totals are {totals}, the results {}", self.counts));
            }
            Some(_) => {}
        }
        CaseResult { counts: self.counts, failures: self.failures }
    }

    fn check_plan(&mut self, plan: usize) {
        let missing = (1..=plan).filter(|number| !self.seen.contains(number)).count();
        if missing > 0 {
            self.failures.push(format!("{missing} of {plan} planned results are missing"));
        }
        if let Some(beyond) = self.seen.range(plan + 1..).next() {
            self.failures.push(format!("result {beyond} is beyond the plan of {plan}"));
        }
        if self.seen.contains(&0) {
            self.failures.push("result 0 is not in any plan".into());
        }
    }

    /// A skip without a reason is a failure here and a skip in the kernel's totals; it is reported already.
    fn agrees(&self, totals: TestCounts) -> bool {
        totals == self.counts || (self.counts.failed > 0 && totals.passed == self.counts.passed)
    }
}

/// The text after `# SKIP`, if the result is a skip.
fn skip_reason(name: &str) -> Option<&str> {
    let (_, directive) = name.split_once(" # ").or_else(|| name.split_once("# "))?;
    let (word, reason) = directive.split_at_checked(4)?;
    word.eq_ignore_ascii_case("skip").then(|| reason.trim())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn finished(console: &str, exit: QemuExit) -> QemuRun {
        QemuRun { console: console.into(), exit, took: Duration::ZERO }
    }

    fn ktap(console: &str) -> CaseResult {
        ConsoleExpectation::Ktap.evaluate(&finished(console, QemuExit::PoweredOff))
    }

    const GOOD: &str = "boot: 4 CPUs\nKTAP version 1\n1..3\nok 1 zones_do_not_overlap\n# edu: 2 chunks\n\
                        ok 2 - edu_crosses # SKIP no edu device\nok 3 hash#name\n# totals: pass:2 fail:0 skip:1\n";

    #[test]
    fn a_clean_report_passes() {
        let result = ktap(GOOD);
        assert_eq!(result.counts, TestCounts { passed: 2, failed: 0, skipped: 1 });
        assert_eq!(result.failures, [""; 0]);
    }

    #[test]
    fn each_defect_of_a_report_is_a_failure() {
        let table = [
            ("a failed result", GOOD.replace("ok 3 hash", "not ok 3 hash"), "not ok: hash#name"),
            ("a missing result", GOOD.replace("ok 3 hash#name\n", ""), "1 of 3 planned results are missing"),
            ("no plan", GOOD.replace("1..3\n", ""), "no plan"),
            ("an empty plan", "1..0\n# totals: pass:0 fail:0 skip:0\n".into(), "the plan is empty"),
            ("a second plan", GOOD.replace("1..3", "1..3\n1..3"), "announced twice"),
            ("no totals", GOOD.replace("# totals: pass:2 fail:0 skip:1\n", ""), "no `# totals:` line"),
            ("wrong totals", GOOD.replace("pass:2", "pass:3"), "the totals are 3 passed"),
            ("unreadable totals", GOOD.replace("pass:2", "pass:x"), "unreadable totals"),
            ("a skip without a reason", GOOD.replace("SKIP no edu device", "SKIP"), "without a reason"),
            ("a result twice", GOOD.replace("ok 3", "ok 2"), "result 2 is given twice"),
            ("a result too many", GOOD.replace("1..3", "1..2"), "result 3 is beyond"),
            (
                "a panic",
                GOOD.replace("# edu: 2", "kernel panic: out of frames\n# 2"),
                "kernel panic: out of frames",
            ),
            ("nothing at all", String::new(), "no plan"),
        ];
        for (defect, console, failure) in table {
            let result = ktap(&console);
            assert!(result.counts.failed > 0, "{defect}");
            assert!(result.failures.iter().any(|line| line.contains(failure)), "{defect}: {result:?}");
        }
    }

    #[test]
    fn a_failure_is_reported_with_the_notes_of_its_test() {
        let console = "1..2\n# old\nok 1 a\n# saw 7, not 8\nnot ok 2 b\n# totals: pass:1 fail:1 skip:0\n";
        assert_eq!(ktap(console).failures, ["not ok: b", "  saw 7, not 8"]);
    }

    #[test]
    fn a_passed_report_fails_without_power_off() {
        let limit = Duration::from_secs(60);
        for end in [
            QemuExit::TimedOut(limit),
            QemuExit::Failed(Some(1)),
            QemuExit::Failed(None),
            QemuExit::OutputLimit,
            QemuExit::Stopped,
        ] {
            let result = ConsoleExpectation::Ktap.evaluate(&finished(GOOD, end));
            assert_eq!((result.counts.failed, result.failures.len()), (1, 1), "{end:?}");
        }
    }

    #[test]
    fn a_skip_on_the_machine_with_every_device_fails() {
        let result = ConsoleExpectation::KtapWithoutSkips.evaluate(&finished(GOOD, QemuExit::PoweredOff));
        assert_eq!(result.counts, TestCounts { passed: 2, failed: 1, skipped: 1 });
        assert!(result.failures[0].ends_with("edu_crosses # SKIP no edu device"), "{result:?}");
    }

    #[test]
    fn a_guest_without_power_off_is_stopped_after_its_totals() {
        assert!(ConsoleExpectation::KtapThenHalt.is_last("# totals: pass:2 fail:0 skip:1"));
        assert!(!ConsoleExpectation::Ktap.is_last("# totals: pass:2 fail:0 skip:1"));
        assert_eq!(
            ConsoleExpectation::KtapThenHalt.evaluate(&finished(GOOD, QemuExit::Stopped)).counts.failed,
            0
        );
        assert_eq!(
            ConsoleExpectation::KtapThenHalt
                .evaluate(&finished(GOOD, QemuExit::Failed(Some(1))))
                .counts
                .failed,
            1
        );
    }

    #[test]
    fn texts_must_be_in_order_and_forbidden_ones_absent() {
        let expect = ConsoleExpectation::PowerOff {
            shown: &["vmalloc bytes: 0", "init: exit status 0"],
            never: &[PANIC],
        };
        let table = [
            ("vmalloc bytes: 0\ninit: exit status 0\n", QemuExit::PoweredOff, true),
            ("init: exit status 0\nvmalloc bytes: 0\n", QemuExit::PoweredOff, false),
            ("vmalloc bytes: 0\n", QemuExit::PoweredOff, false),
            ("vmalloc bytes: 0\ninit: exit status 0\nkernel panic: late\n", QemuExit::PoweredOff, false),
            ("vmalloc bytes: 0\ninit: exit status 0\n", QemuExit::TimedOut(Duration::ZERO), false),
        ];
        for (console, end, good) in table {
            let result = expect.evaluate(&finished(console, end));
            assert_eq!(result.counts, TestCounts::one(good), "{console}{end:?}");
        }
    }

    #[test]
    fn an_added_failure_fails_a_passed_case() {
        let good = CaseResult { counts: TestCounts::one(true), failures: Vec::new() };
        assert_eq!(good.clone().and(Vec::new()).counts, TestCounts::one(true));
        assert_eq!(good.and(vec!["a leak".into()]).counts, TestCounts::one(false));
    }

    #[test]
    fn a_halting_guest_is_stopped_after_its_last_line() {
        let expect = ConsoleExpectation::Halt { shown: &["device tree", "bad magic"] };
        assert!(expect.is_last("device tree at 0x0: bad magic"));
        assert!(!expect.is_last("device tree"));
        let run = finished("device tree at 0x0: bad magic\n", QemuExit::Stopped);
        assert_eq!(expect.evaluate(&run).counts, TestCounts::one(true));
        assert_eq!(expect.evaluate(&finished("", QemuExit::PoweredOff)).counts, TestCounts::one(false));
    }
}
