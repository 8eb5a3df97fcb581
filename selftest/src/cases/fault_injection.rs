//! Fail everything: each self-test again and again, every time with another event of one class failing (`inject=`).
//!
//! A run may then pass or return an error. Whichever it does, afterwards the books are as before, the rules of the
//! audit hold, and an ordinary use of everything works. What the books show is a leak if it shows twice: a list that
//! has grown stays grown, once.

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

/// Up to so many events of a class all of them fail, if nobody says otherwise.
pub const FIRST: u64 = 64;
/// Where there are more, this part of so many of the first.
const FEW: u64 = 6;
/// And no more than so many for ways that are new.
const MOST_WAYS: u64 = 200;
/// Between two signs of life.
const PROGRESS_NS: u64 = 5_000_000_000;
/// How long it may take until a thread that is gone has given back what was known of it.
const HEAP_PATIENCE_NS: u64 = 5_000_000_000;
/// Bytes by which the heap may have grown without anybody having lost something.
const HEAP_SLACK: usize = 4096;

/// What is to fail.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Selection classes.
    pub classes: Glob<'a>,
    /// How many events of a class there may be for all of them to fail.
    pub first: u64,
}

/// Runs `tests` under the plan, one result for each. Returns whether none failed.
pub fn run(tests: impl Iterator<Item = &'static Test> + Clone, plan: &Plan<'_>) -> bool {
    let mut report = Report::start(tests.clone().count());
    for test in tests {
        let name = format!("inject:{}", test.name);
        match all_classes(test, plan) {
            Ok(Verdict::Pass(tried)) => {
                report.add(&format!("{name} # {tried}"), Ok(Verdict::Pass(String::new())))
            }
            other => report.add(&name, other),
        }
    }
    report.finish()
}

fn all_classes(test: &Test, plan: &Plan<'_>) -> Outcome {
    let classes = || FAIL_POINTS.into_iter().filter(|&class| plan.classes.matches(name(class)));
    if classes().next().is_none() {
        return pass!("nothing is to fail");
    }
    // Once without: what is made once is there then.
    if let Verdict::Skip(why) = clean(test)? {
        return Ok(Verdict::Skip(why));
    }
    debug::forget_all_paths();
    let mut seen = Vec::new();
    for class in classes() {
        let level = log::max_level();
        log::set_max_level(LevelFilter::Off);
        let tried = Trial::new(test, class).each_event(plan.first);
        log::set_max_level(level);
        seen.push(format!("{} {}", name(class), tried?));
    }
    clean(test)?;
    let left = if debug::paths_overflowed() { ", ways left" } else { "" };
    pass!("{}{left}", seen.join(", "))
}

fn clean(test: &Test) -> Outcome {
    super::audited((test.run)()).map_err(|error| format!("with nothing failing: {error}"))
}

/// A test that is tried with events of one class failing.
struct Trial<'a> {
    test: &'a Test,
    class: FailPoint,
    /// So many of the first fail one after the other.
    every: u64,
    /// How many failed, and those of them by a new way.
    failed: u64,
    ways: u64,
    /// When the last sign of life was.
    sign: u64,
}

impl<'a> Trial<'a> {
    fn new(test: &'a Test, class: FailPoint) -> Self {
        Self { test, class, every: 0, failed: 0, ways: 0, sign: sched::time::now() }
    }

    /// Lets events fail: all if there are up to `first`; else the first few, every fourth part more behind them, and then one
    /// on each way to one on which none has failed. Says how many did, and how many there are if they are more.
    fn each_event(mut self, first: u64) -> Result<String, String> {
        let all = self.count()?;
        self.every = if all <= first { first } else { first.div_ceil(FEW) };
        let mut next = Some(Selection::Nth(1));
        let mut left = None;
        // The only place that calls it, so that a way looks alike whatever it is taken for.
        while let Some(which) = next {
            self.give_sign(which);
            let found = self.fail_once(which)?;
            match (&found, left.take()) {
                (Some(Err(again)), Some(_)) => return Err(self.describe(which, again)),
                // What leaves something the first time alone has made something that stays.
                (Some(Err(now)), None) => {
                    left = Some(now.clone());
                    debug::forget_newest_path();
                }
                (None, None) => next = self.behind_the_last(which, all),
                _ => next = self.behind(which),
            }
        }
        let more = if self.ways >= MOST_WAYS { ", ways left" } else { "" };
        let of = if self.failed < all { format!(" of {all}") } else { String::new() };
        Ok(format!("{}{of}{more}", self.failed))
    }

    /// What comes after `which`, which failed.
    fn behind(&mut self, which: Selection) -> Option<Selection> {
        self.failed += 1;
        match which {
            Selection::Nth(nth) if nth < self.every => Some(Selection::Nth(nth + 1)),
            Selection::Nth(nth) => Some(Selection::Nth(nth + nth.div_ceil(4))),
            _ => {
                self.ways += 1;
                Some(Selection::NewPath).filter(|_| self.ways < MOST_WAYS)
            }
        }
    }

    /// What comes after `which`, which there was none of.
    fn behind_the_last(&self, which: Selection, all: u64) -> Option<Selection> {
        (which != Selection::NewPath && self.failed < all).then_some(Selection::NewPath)
    }

    /// How many events there are with none failing.
    fn count(&self) -> Result<u64, String> {
        arm(self.class, Selection::None);
        let outcome = (self.test.run)();
        let seen = disarm().seen;
        super::audited(outcome).map_err(|error| self.describe(Selection::None, &error))?;
        Ok(seen)
    }

    /// `None` if nothing was to fail; else what was left behind.
    fn fail_once(&self, which: Selection) -> Result<Option<Result<(), String>>, String> {
        let books = Books::now();
        arm(self.class, which);
        let outcome = (self.test.run)();
        if !disarm().failed {
            return outcome.map(|_| None).map_err(|error| self.describe(Selection::None, &error));
        }
        drop(outcome);
        let found = books.settle(self.class);
        self.look().map_err(|error| self.describe(which, &error))?;
        Ok(Some(found))
    }

    /// Whether nothing is broken.
    fn look(&self) -> Result<(), String> {
        super::unharmed(Verdict::Pass(String::new()))?;
        audit::check().map_err(|finding| format!("afterwards {finding}"))?;
        next().map_err(|error| format!("the next operation: {error}"))
    }

    fn describe(&self, which: Selection, error: &str) -> String {
        format!("{}, {which:?} failing: {error}", name(self.class))
    }

    fn give_sign(&mut self, which: Selection) {
        if sched::time::now() > self.sign + PROGRESS_NS {
            self.sign = sched::time::now();
            kprintln!("# {}: {} {which:?}", self.test.name, name(self.class));
        }
    }
}

/// What is held, on the heap too.
struct Books {
    held: ResourceSnapshot,
    heap: usize,
}

impl Books {
    fn now() -> Self {
        Self { held: ResourceSnapshot::now(), heap: heap::usage().0 }
    }

    /// Everything is as it was, but for what `class` may lose.
    fn settle(self, class: FailPoint) -> Result<(), String> {
        let held = if leaks_memory(class) {
            self.held.settle_but_lost("afterwards")
        } else {
            self.held.settle("afterwards")
        };
        held?;
        let deadline = sched::time::now() + HEAP_PATIENCE_NS;
        loop {
            let heap = heap::usage().0;
            if heap <= self.heap + HEAP_SLACK || leaks_memory(class) {
                return Ok(());
            }
            if sched::time::now() > deadline {
                return Err(format!("{} bytes of the heap are in use, {} before", heap, self.heap));
            }
            // What is known of a thread goes after its stack.
            sched::yield_now();
        }
    }
}

/// Something of everything: a buffer with a kernel mapping, memory that is lent, a thread.
fn next() -> Result<(), String> {
    let device = kernel::devices::dma_engines().next().map(|engine| engine.device().clone());
    if let Some(device) = device.filter(|device| device.domain().is_translated()) {
        let attrs = Attrs::ALLOC_SINGLE_PAGES | Attrs::NO_WARN;
        let buffer = dma::alloc(&device, 20 * PAGE_SIZE, attrs).map_err(|error| error.to_string())?;
        let pages = Pages::new(2 * PAGE_SIZE).map_err(|error| error.to_string())?;
        let lent = stream::map(&device, pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
        drop((buffer, lent));
    }
    fixture::run_each(1, |_| ()).map(|_| ())
}
