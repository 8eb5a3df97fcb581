//! Self-tests of behaviour that only a machine shows, with a KTAP report on the console.
//!
//! A test is a function in the file of its subject; [`TESTS`] lists them in the order in which they run.

#[cfg(feature = "checking")]
mod allocation_failures;
mod boot;
#[cfg(feature = "checking")]
mod command_queue_loss;
#[cfg(feature = "checking")]
mod commands;
#[cfg(feature = "checking")]
mod debug_checks;
pub(crate) mod device;
mod dma;
#[cfg(feature = "checking")]
pub mod fault_injection;
mod faults;
mod hostile_programs;
mod memory;
mod messages;
pub(crate) mod programs;
mod report;
pub(crate) mod resource_snapshot;
mod streaming;
mod transfers;

use crate::audit;
use alloc::format;
use alloc::string::String;
use kernel::board::Glob;

/// The result of a test that did not fail.
pub enum Verdict {
    /// Passed, with the observation.
    Pass(String),
    /// Not applicable to this machine, with the reason.
    Skip(String),
}

/// A verdict, or the description of the failure.
pub type Outcome = Result<Verdict, String>;

/// One self-test.
pub struct Test {
    /// `area.behaviour`, printed in the KTAP result.
    pub name: &'static str,
    pub run: fn() -> Outcome,
}

/// Passes with an observation.
#[macro_export]
macro_rules! pass {
    ($($arg:tt)*) => { Ok($crate::cases::Verdict::Pass(alloc::format!($($arg)*))) };
}

/// Returns from the test with a skip and its reason.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => { return Ok($crate::cases::Verdict::Skip(alloc::format!($($arg)*))) };
}

/// Fails the test with a description unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($arg)*));
        }
    };
}

/// All tests, by file.
const TESTS: &[&[Test]] = &[
    boot::TESTS,
    memory::TESTS,
    dma::TESTS,
    transfers::TESTS,
    messages::TESTS,
    streaming::TESTS,
    faults::TESTS,
    programs::TESTS,
    hostile_programs::TESTS,
    #[cfg(feature = "checking")]
    commands::TESTS,
    #[cfg(feature = "checking")]
    command_queue_loss::TESTS,
    #[cfg(feature = "checking")]
    allocation_failures::TESTS,
    #[cfg(feature = "checking")]
    debug_checks::TESTS,
];

fn all() -> impl Iterator<Item = &'static Test> + Clone {
    TESTS.iter().copied().flatten()
}

/// Adds the findings of the memory audit to the outcome, also to a failure, whose cause they may be.
fn audited(outcome: Outcome) -> Outcome {
    match (audit::check(), outcome) {
        (Ok(_), outcome) => outcome.and_then(check_debug_findings),
        (Err(finding), Ok(_)) => Err(format!("audit after the test: {finding}")),
        (Err(finding), Err(seen)) => Err(format!("{seen}\naudit after the test: {finding}")),
    }
}

/// Fails a passed test if a write after free or a canary overrun was detected.
#[cfg(feature = "checking")]
fn check_debug_findings(verdict: Verdict) -> Outcome {
    use crate::debug::{guards, poison};
    guards::take_near_miss();
    match (poison::take_finding(), guards::take_overrun()) {
        (None, None) => Ok(verdict),
        (Some(finding), _) => Err(format!("{finding}")),
        (None, Some(overrun)) => Err(format!("{overrun}")),
    }
}

#[cfg(not(feature = "checking"))]
fn check_debug_findings(verdict: Verdict) -> Outcome {
    Ok(verdict)
}

/// Runs the selected tests with fault injection: each operation fails in turn. Returns whether no test leaks
/// resources or violates the audit.
#[cfg(feature = "checking")]
pub fn run_injected(selected: Glob<'_>, plan: &fault_injection::InjectionPlan<'_>) -> bool {
    fault_injection::run(all().filter(|test| selected.matches(test.name)), plan)
}

/// Runs the selected tests and prints the KTAP report. Returns whether no test failed.
pub fn run(selected: Glob<'_>) -> bool {
    let tests = || all().filter(|test| selected.matches(test.name));
    let count = tests().count();
    if count == 0 {
        log::warn!("selftest: no test matches \"{selected}\"");
    }
    let mut report = report::Report::start(count);
    #[cfg(feature = "checking")]
    let mut irqsoff = crate::debug::irqsoff::LongestStretches::start();
    for test in tests() {
        report.add(test.name, audited((test.run)()));
        #[cfg(feature = "checking")]
        irqsoff.add(test.name);
    }
    #[cfg(feature = "checking")]
    irqsoff.print();
    report.finish()
}
