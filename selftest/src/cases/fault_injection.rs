//! Fault injection over the self-tests (`inject=`): each self-test runs repeatedly, each time with another
//! operation at one fail point failing.
//!
//! A run may pass or return an error. In both cases the resources are as before, the audit passes, and an
//! ordinary use of each component succeeds. A difference in resources is a leak only if it repeats: a grown
//! list stays grown, once.

use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test, Verdict, report::Report};
use crate::debug;
use crate::debug::fault_injection::{FAIL_POINTS, Selection, arm, disarm, leaks_memory, name};
use crate::{audit, fixture, pass};
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dma_api::{Attrs, Direction};
use kernel::board::Glob;
use kernel::debug::FailPoint;
use kernel::dma::stream::{self, Pages};
use kernel::memory::heap;
use kernel::{dma, kprintln, sched};
use log::LevelFilter;

/// The default of `inject.first=`: in a test with at most this many operations at a fail point, each of
/// them fails.
pub const DEFAULT_FIRST: u64 = 64;
/// In a test with more operations, the first `first / FIRST_DIVISOR` of them fail in order.
const FIRST_DIVISOR: u64 = 6;
/// The most failures on new call paths.
const MAX_PATHS: u64 = 200;
/// The interval of progress lines.
const PROGRESS_NS: u64 = 5_000_000_000;
/// The timeout until the heap memory of ended threads is freed.
const HEAP_TIMEOUT_NS: u64 = 5_000_000_000;
/// Growth of the heap in bytes that is not a leak.
const HEAP_SLACK: usize = 4096;

/// The injected failures of a run.
#[derive(Clone, Copy)]
pub struct InjectionPlan<'a> {
    /// The names of the fail points, `inject=`.
    pub points: Glob<'a>,
    /// The most operations at a fail point in a test of which each fails, `inject.first=`.
    pub first: u64,
}

/// Runs `tests` under the plan, with one KTAP result each. Returns whether no test failed.
pub fn run(tests: impl Iterator<Item = &'static Test> + Clone, plan: &InjectionPlan<'_>) -> bool {
    let mut report = Report::start(tests.clone().count());
    for test in tests {
        let name = format!("inject:{}", test.name);
        match inject_all_points(test, plan) {
            Ok(Verdict::Pass(counts)) => {
                report.add(&format!("{name} # {counts}"), Ok(Verdict::Pass(String::new())))
            }
            other => report.add(&name, other),
        }
    }
    report.finish()
}

fn inject_all_points(test: &Test, plan: &InjectionPlan<'_>) -> Outcome {
    let points = || FAIL_POINTS.into_iter().filter(|&point| plan.points.matches(name(point)));
    if points().next().is_none() {
        return pass!("no fail point selected");
    }
    // The first run without failures allocates the memory that is allocated once and kept.
    if let Verdict::Skip(why) = run_without_failures(test)? {
        return Ok(Verdict::Skip(why));
    }
    debug::forget_all_paths();
    let mut counts = Vec::new();
    for point in points() {
        let level = log::max_level();
        log::set_max_level(LevelFilter::Off);
        let count = PointTrial::new(test, point).fail_each(plan.first);
        log::set_max_level(level);
        counts.push(format!("{} {}", name(point), count?));
    }
    run_without_failures(test)?;
    let more = if debug::paths_overflowed() { ", paths left" } else { "" };
    pass!("{}{more}", counts.join(", "))
}

fn run_without_failures(test: &Test) -> Outcome {
    super::audited((test.run)()).map_err(|error| format!("without injected failures: {error}"))
}

/// The runs of one test with failures at one fail point.
struct PointTrial<'a> {
    test: &'a Test,
    point: FailPoint,
    /// The number of first operations that fail in order.
    in_order: u64,
    /// Failed operations, and those of them on a new call path.
    failed: u64,
    paths: u64,
    /// The time of the last progress line.
    progress_at: u64,
}

impl<'a> PointTrial<'a> {
    fn new(test: &'a Test, point: FailPoint) -> Self {
        Self { test, point, in_order: 0, failed: 0, paths: 0, progress_at: sched::time::now() }
    }

    /// Fails operations, one in each run: each of them if there are at most `first`; else the first few in
    /// order, then some at numbers that grow by a quarter, and then one on each call path on which none has
    /// failed. Returns the number of failures, with the number of operations if that is larger.
    fn fail_each(mut self, first: u64) -> Result<String, String> {
        let all = self.count()?;
        self.in_order = if all <= first { first } else { first.div_ceil(FIRST_DIVISOR) };
        let mut next = Some(Selection::Nth(1));
        let mut leaked = None;
        // The only call of `fail_once`, so that a call path has the same hash for each selection.
        while let Some(which) = next {
            self.print_progress(which);
            let found = self.fail_once(which)?;
            match (&found, leaked.take()) {
                (Some(Err(again)), Some(_)) => return Err(self.describe(which, again)),
                // Not yet a leak: the first run may have allocated memory that is kept.
                (Some(Err(now)), None) => {
                    leaked = Some(now.clone());
                    debug::forget_newest_path();
                }
                (None, None) => next = self.after_last(which, all),
                _ => next = self.after_failure(which),
            }
        }
        let more = if self.paths >= MAX_PATHS { ", paths left" } else { "" };
        let of = if self.failed < all { format!(" of {all}") } else { String::new() };
        Ok(format!("{}{of}{more}", self.failed))
    }

    /// Returns the next selection after the operation `which` failed.
    fn after_failure(&mut self, which: Selection) -> Option<Selection> {
        self.failed += 1;
        match which {
            Selection::Nth(nth) if nth < self.in_order => Some(Selection::Nth(nth + 1)),
            Selection::Nth(nth) => Some(Selection::Nth(nth + nth.div_ceil(4))),
            _ => {
                self.paths += 1;
                Some(Selection::NewPath).filter(|_| self.paths < MAX_PATHS)
            }
        }
    }

    /// Returns the next selection if the test has no operation `which`.
    fn after_last(&self, which: Selection, all: u64) -> Option<Selection> {
        (which != Selection::NewPath && self.failed < all).then_some(Selection::NewPath)
    }

    /// Returns the number of operations without a failure.
    fn count(&self) -> Result<u64, String> {
        arm(self.point, Selection::None);
        let outcome = (self.test.run)();
        let seen = disarm().seen;
        super::audited(outcome).map_err(|error| self.describe(Selection::None, &error))?;
        Ok(seen)
    }

    /// Runs the test with `which` failing. Returns `None` if it has no such operation, else whether
    /// resources leaked.
    fn fail_once(&self, which: Selection) -> Result<Option<Result<(), String>>, String> {
        let before = SnapshotWithHeap::now();
        arm(self.point, which);
        let outcome = (self.test.run)();
        if !disarm().failed {
            return outcome.map(|_| None).map_err(|error| self.describe(Selection::None, &error));
        }
        drop(outcome);
        let found = before.settle(self.point);
        self.check_state().map_err(|error| self.describe(which, &error))?;
        Ok(Some(found))
    }

    /// Checks the memory debugging findings, the audit, and an ordinary use of each component.
    fn check_state(&self) -> Result<(), String> {
        super::check_debug_findings(Verdict::Pass(String::new()))?;
        audit::check().map_err(|finding| format!("audit after the failure: {finding}"))?;
        use_each_component().map_err(|error| format!("the next operation: {error}"))
    }

    fn describe(&self, which: Selection, error: &str) -> String {
        format!("{}, {which:?} failing: {error}", name(self.point))
    }

    fn print_progress(&mut self, which: Selection) {
        if sched::time::now() > self.progress_at + PROGRESS_NS {
            self.progress_at = sched::time::now();
            kprintln!("# {}: {} {which:?}", self.test.name, name(self.point));
        }
    }
}

/// A resource snapshot with the size of the heap.
struct SnapshotWithHeap {
    resources: ResourceSnapshot,
    heap: usize,
}

impl SnapshotWithHeap {
    fn now() -> Self {
        Self { resources: ResourceSnapshot::now(), heap: heap::usage().0 }
    }

    /// Waits until all resources are as before, except those that a failure at `point` may leak.
    fn settle(self, point: FailPoint) -> Result<(), String> {
        if leaks_memory(point) {
            self.resources.settle_except_leaked("after the failure")?;
        } else {
            self.resources.settle("after the failure")?;
        }
        // The heap memory of a thread is freed after its stack.
        let is_freed = || heap::usage().0 <= self.heap + HEAP_SLACK;
        if leaks_memory(point) || fixture::yield_until(HEAP_TIMEOUT_NS, is_freed) {
            return Ok(());
        }
        Err(format!("{} bytes of heap in use, {} before", heap::usage().0, self.heap))
    }
}

/// Allocates a buffer with a kernel view, a streaming mapping, and a thread.
fn use_each_component() -> Result<(), String> {
    let device = kernel::devices::dma_engines().next().map(|engine| engine.device().clone());
    if let Some(device) = device.filter(|device| device.domain().is_translated()) {
        let attrs = Attrs::ALLOC_SINGLE_PAGES | Attrs::NO_WARN;
        let buffer = dma::alloc(&device, 20 * PAGE_SIZE, attrs).map_err(|error| error.to_string())?;
        let pages = Pages::new(2 * PAGE_SIZE).map_err(|error| error.to_string())?;
        let mapping =
            stream::map(&device, pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
        drop((buffer, mapping));
    }
    fixture::run_each(1, |_| ()).map(|_| ())
}
