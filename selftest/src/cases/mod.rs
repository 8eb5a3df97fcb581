//! Self-tests: what only the machine can show. KTAP on the console, one verdict a line, each naming what it saw.
//!
//! A test is a function in a file of its subject; [`TESTS`] lists them in the order in which they run.

#[cfg(feature = "checking")]
mod allocation_failures;
mod boot;
#[cfg(feature = "checking")]
mod command_queue_loss;
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
pub(crate) mod programs;
mod report;
pub(crate) mod resource_snapshot;
mod streaming;
mod transfers;

use crate::audit;
use alloc::format;
use alloc::string::String;
use kernel::board::Glob;
use kernel::memory::heap;

/// What a test found, if it did not fail.
pub enum Verdict {
    /// It holds; with what was seen, in a few words.
    Pass(String),
    /// It cannot be seen on this machine, and why.
    Skip(String),
}

/// A verdict, or what was seen instead of what should be.
pub type Outcome = Result<Verdict, String>;

/// One self-test.
pub struct Test {
    /// A sentence in snake case, `subject.what_holds`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn() -> Outcome,
}

/// A pass that says what was seen.
#[macro_export]
macro_rules! pass {
    ($($arg:tt)*) => { Ok($crate::cases::Verdict::Pass(alloc::format!($($arg)*))) };
}

/// A skip that says why.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => { return Ok($crate::cases::Verdict::Skip(alloc::format!($($arg)*))) };
}

/// Fails the test with what was seen unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($arg)*));
        }
    };
}

/// All tests, by subject.
const TESTS: &[&[Test]] = &[
    boot::TESTS,
    memory::TESTS,
    dma::TESTS,
    transfers::TESTS,
    streaming::TESTS,
    faults::TESTS,
    commands::TESTS,
    programs::TESTS,
    hostile_programs::TESTS,
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

/// The verdict, if no rule about memory was broken on the way; a broken one may be why a test fails.
fn audited(outcome: Outcome) -> Outcome {
    match (audit::check(), outcome) {
        (Ok(_), outcome) => outcome.and_then(unharmed),
        (Err(finding), Ok(_)) => Err(format!("afterwards {finding}")),
        (Err(finding), Err(seen)) => Err(format!("{seen}\nafterwards {finding}")),
    }
}

/// The verdict, if nobody wrote where nobody should.
#[cfg(feature = "checking")]
fn unharmed(verdict: Verdict) -> Outcome {
    use crate::debug::{guards, poison};
    guards::take_near_miss();
    match (poison::take_finding(), guards::take_overrun()) {
        (None, None) => Ok(verdict),
        (Some(written), _) => Err(format!("{written}")),
        (None, Some(overrun)) => Err(format!("{overrun}")),
    }
}

#[cfg(not(feature = "checking"))]
fn unharmed(verdict: Verdict) -> Outcome {
    Ok(verdict)
}

/// Runs the chosen tests with one event after the other failing. Returns whether none leaves anything behind.
#[cfg(feature = "checking")]
pub fn run_injected(chosen: Glob<'_>, plan: &fault_injection::Plan<'_>) -> bool {
    fault_injection::run(all().filter(|test| chosen.matches(test.name)), plan)
}

/// Runs the chosen tests and prints the KTAP report. Returns whether none failed.
pub fn run(chosen: Glob<'_>) -> bool {
    heap::check_interrupt_handlers();
    let tests = || all().filter(|test| chosen.matches(test.name));
    let count = tests().count();
    if count == 0 {
        log::warn!("selftest: no test has such a name");
    }
    let mut report = report::Report::start(count);
    for test in tests() {
        report.add(test.name, audited((test.run)()));
    }
    report.finish()
}
