//! Fail everything: each self-test again and again, every time with another event of one class failing (`inject=`).
//!
//! A run may then pass or return an error. Whichever it does, afterwards the books are as before, the rules of the
//! audit hold, and an ordinary use of everything works. What the books show is a leak if it shows twice: a list that
//! has grown stays grown, once.

use super::held::Held;
use super::{Outcome, Test, Verdict, report::Report};
use crate::board::Glob;
use crate::checking::Class;
use crate::checking::inject::{arm, disarm};
use crate::dma::stream::{self, Pages};
use crate::memory::heap;
use crate::{audit, dma, kprintln, rig, sched};
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dma_api::{Attrs, Direction};
use log::LevelFilter;

/// How many events fail one after the other if nobody says; behind them every eighth part more.
pub const FIRST: u64 = 100;
/// Between two signs of life.
const PROGRESS_NS: u64 = 5_000_000_000;
/// Bytes by which the heap may have grown without anybody having lost something.
const HEAP_SLACK: usize = 4096;

/// What is to fail.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Which classes.
    pub classes: Glob<'a>,
    /// How many of the first events.
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
    // Once without: what is made once is there then.
    if let Verdict::Skip(why) = clean(test)? {
        return Ok(Verdict::Skip(why));
    }
    let mut seen = Vec::new();
    for class in Class::ALL.into_iter().filter(|class| plan.classes.matches(class.name())) {
        let level = log::max_level();
        log::set_max_level(LevelFilter::Off);
        let tried = each_event(test, class, plan.first);
        log::set_max_level(level);
        seen.push(format!("{} {}", class.name(), tried?));
        clean(test).map_err(|error| format!("after {}: {error}", class.name()))?;
    }
    Ok(Verdict::Pass(seen.join(", ")))
}

fn clean(test: &Test) -> Outcome {
    (test.run)().and_then(super::audited).map_err(|error| format!("with nothing failing: {error}"))
}

/// Lets every event of `class` fail that the test comes to; says how many did.
fn each_event(test: &Test, class: Class, first: u64) -> Result<String, String> {
    let (mut nth, mut tried, mut sign) = (1, 0u64, sched::time::now());
    while once(test, class, nth).map_err(|error| format!("{} {nth}: {error}", class.name()))? {
        tried += 1;
        nth += if nth < first { 1 } else { nth.div_ceil(8) };
        if sched::time::now() > sign + PROGRESS_NS {
            sign = sched::time::now();
            kprintln!("# {}: {} {nth}", test.name, class.name());
        }
    }
    // The last one that failed was the one before; behind `first` there may be a few more.
    Ok(if nth <= first { format!("{tried}") } else { format!("{tried} of about {nth}") })
}

/// Lets one event fail and looks at what is left. Whether there was one.
fn once(test: &Test, class: Class, nth: u64) -> Result<bool, String> {
    let mut found = Ok(());
    for _ in 0..2 {
        let books = Books::now();
        arm(class, nth);
        let outcome = (test.run)();
        if !disarm() {
            return outcome.map(|_| false).map_err(|error| format!("nothing failed, but {error}"));
        }
        drop(outcome);
        found = books.settle(class);
        super::unharmed(Verdict::Pass(String::new()))?;
        audit::check().map_err(|finding| format!("afterwards {finding}"))?;
        next().map_err(|error| format!("the next operation: {error}"))?;
        if found.is_ok() {
            break;
        }
    }
    found.map(|()| true)
}

/// What is held, on the heap too.
struct Books {
    held: Held,
    heap: usize,
}

impl Books {
    fn now() -> Self {
        Self { held: Held::now(), heap: heap::usage().0 }
    }

    /// Everything is as it was, but for what `class` may lose.
    fn settle(self, class: Class) -> Result<(), String> {
        let held = if class.loses_memory() {
            self.held.settle_but_lost("afterwards")
        } else {
            self.held.settle("afterwards")
        };
        held?;
        let heap = heap::usage().0;
        if heap > self.heap + HEAP_SLACK && !class.loses_memory() {
            return Err(format!("{} bytes of the heap are in use, {} before", heap, self.heap));
        }
        Ok(())
    }
}

/// Something of everything: a buffer with a kernel mapping, memory that is lent, a thread.
fn next() -> Result<(), String> {
    let device = crate::devices::copiers().first().map(|copier| copier.device().clone());
    if let Some(device) = device.filter(|device| device.domain().is_translated()) {
        let attrs = Attrs::ALLOC_SINGLE_PAGES | Attrs::NO_WARN;
        let buffer = dma::alloc(&device, 20 * PAGE_SIZE, attrs).map_err(|error| error.to_string())?;
        let pages = Pages::new(2 * PAGE_SIZE).map_err(|error| error.to_string())?;
        let lent = stream::map(&device, pages, Direction::Bidirectional).map_err(|r| r.error.to_string())?;
        drop((buffer, lent));
    }
    rig::run_each(1, |_| ()).map(|_| ())
}
