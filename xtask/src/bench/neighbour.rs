//! The slowdown of a device while seven others fault continuously, are quarantined and enabled again.

use super::figures::Figure;
use super::session::{NEIGHBOUR, OVERFLOW, Session};
use crate::artifacts::Artifacts;
use crate::counts::TestCounts;
use crate::error::{Error, Result};

/// The permitted slowdown.
const MAX_SLOWDOWN_PERCENT: u64 = 10;

/// The compared costs: a title, and the field of the figure.
const COSTS: [(&str, &str); 2] = [("mapping a page", "alloc_ticks"), ("a transfer", "transfer_ticks")];

/// Measures with an event queue that holds all events, and with one that overflows. Each comparison is a
/// test, and so is the number of lines in the log.
pub fn check(built: &Artifacts) -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    for (session, queue) in [(&NEIGHBOUR, QueueSize::Sufficient), (&OVERFLOW, QueueSize::Insufficient)] {
        counts += check_one(session, queue, built)?;
    }
    println!("neighbour: {counts}");
    Ok(counts)
}

fn check_one(session: &Session<'_>, queue: QueueSize, built: &Artifacts) -> Result<TestCounts> {
    let figures = session.measure(built)?;
    let log = session.log()?;
    let console = std::fs::read_to_string(&log).map_err(Error::file("read", &log))?;
    let mut counts = TestCounts::default();
    for failure in evaluate(&figures, &console, queue) {
        let name = format!("{}: {}", session.name, failure.as_deref().unwrap_or_default());
        counts += TestCounts::named(name, failure.is_none());
        failure.iter().for_each(|line| println!("FAIL {}: {line}", session.name));
    }
    figures.iter().for_each(|figure| println!("     {}", shown(figure)));
    Ok(counts)
}

/// The size of the event queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueSize {
    /// Holds the events of all devices.
    Sufficient,
    /// Loses events, with further ones pending in each device.
    Insufficient,
}

fn field(figure: &Figure, name: &str) -> u64 {
    figure.fields.get(name).copied().unwrap_or(0)
}

fn shown(figure: &Figure) -> String {
    let costs = COSTS.map(|(what, name)| format!("{what} {}", field(figure, name)));
    format!("{}: {}, {} faults", figure.key.attrs, costs.join(", "), field(figure, "faults"))
}

/// A failure or none for each test.
fn evaluate(figures: &[Figure], console: &str, queue: QueueSize) -> Vec<Option<String>> {
    let find = |attrs: &str| figures.iter().find(|figure| figure.key.attrs == attrs);
    let (Some(quiet), Some(faulting)) = (find("quiet"), find("faulting")) else {
        return vec![Some("no figure for quiet or for faulting".into())];
    };
    let costs = COSTS.map(|(what, name)| {
        let (before, after) = (field(quiet, name), field(faulting, name));
        let slow = before == 0 || after * 100 > before * (100 + MAX_SLOWDOWN_PERCENT);
        slow.then(|| format!("{what} costs {after}, without faults {before}"))
    });
    let [neighbours, reported] = ["neighbours", "reported"].map(|name| field(faulting, name));
    let lost = (neighbours == 0 || reported != neighbours)
        .then(|| format!("first faults of {reported} of {neighbours} devices were reported"));
    let (faults, logged) = (field(faulting, "faults"), Logged::of(console));
    // Some lines a second for each device, and at least one for each device whose fault was reported.
    let [least, most] = [reported, neighbours * 32];
    let wrong_sum = (logged.all() != faults || !(least..=most).contains(&logged.shown)).then(|| {
        format!(
            "{faults} faults, but the log has {} and counts {} dropped ones",
            logged.shown, logged.counted
        )
    });
    let overflow =
        logged.has_wrong_loss_count(queue).then(|| format!("{} lines report lost events", logged.losses));
    let wrong = [quiet, faulting].map(|figure| field(figure, "wrong")).into_iter().sum::<u64>();
    let wrong = (wrong != 0).then(|| format!("{wrong} copies were reported as complete, but were aborted"));
    costs.into_iter().chain([lost, wrong_sum, overflow, wrong]).collect()
}

/// Events in a log.
struct Logged {
    /// Reported in a line each.
    shown: u64,
    /// Counted in the lines for dropped events.
    counted: u64,
    /// Lines that report lost events.
    losses: u64,
}

impl Logged {
    fn of(console: &str) -> Self {
        let lines = || console.lines().filter_map(|line| line.strip_prefix("smmu: "));
        let more = |line: &str| {
            line.split(" more events")
                .next()
                .filter(|rest| rest.len() < line.len())?
                .rsplit(' ')
                .next()?
                .parse::<u64>()
                .ok()
        };
        Self {
            shown: lines().filter(|line| line.starts_with("event ")).count() as u64,
            counted: lines().filter_map(more).sum(),
            losses: lines().filter(|line| line.starts_with("events are lost")).count() as u64,
        }
    }

    /// Whether a loss is reported without one, is not reported, or floods the log: a line a second is the
    /// limit.
    fn has_wrong_loss_count(&self, queue: QueueSize) -> bool {
        let wanted = if queue == QueueSize::Sufficient { 0..=0 } else { 1..=8 };
        !wanted.contains(&self.losses)
    }

    fn all(&self) -> u64 {
        self.shown + self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    fn console(ticks: u64, transfer: u64, reported: u64, more: u64) -> String {
        let line = |attrs: &str, ticks: u64, transfer: u64, rest: &str| {
            format!(
                "BENCH neighbour size=4096 attrs={attrs} alloc_ticks={ticks} free_ticks=0 iters=9 chunks=1 \
                 transfer_ticks={transfer} {rest}\n"
            )
        };
        let (quiet, faulting) = (
            line("quiet", 1000, 5000, "faults=0 neighbours=0 reported=0"),
            line("faulting", ticks, transfer, &format!("faults=40 neighbours=2 reported={reported}")),
        );
        let events = "smmu: event F_TRANSLATION sid=0x8 iova=0x0 read\n".repeat(8)
            + "smmu: event F_TRANSLATION sid=0x10 iova=0x0 read\n";
        format!("{quiet}{events}smmu: sid=0x8 20 more events\nsmmu: sid=0x10 {more} more events\n{faulting}")
    }

    fn failures(console: &str) -> Vec<String> {
        failures_of(console, QueueSize::Sufficient)
    }

    fn failures_of(console: &str, queue: QueueSize) -> Vec<String> {
        evaluate(&from_console(console, "a"), console, queue).into_iter().flatten().collect()
    }

    #[test]
    fn a_slowdown_over_ten_percent_fails() {
        assert!(failures(&console(1100, 5500, 2, 11)).is_empty());
        assert_eq!(failures(&console(1101, 5500, 2, 11)), ["mapping a page costs 1101, without faults 1000"]);
        assert_eq!(failures(&console(900, 5501, 2, 11)), ["a transfer costs 5501, without faults 5000"]);
    }

    #[test]
    fn a_copy_that_was_not_made_fails() {
        let wrong = console(1000, 5000, 2, 11).replace("reported=2", "reported=2 wrong=3");
        assert_eq!(failures(&wrong), ["3 copies were reported as complete, but were aborted"]);
    }

    #[test]
    fn missing_faults_are_reported() {
        let seen = failures(&console(1000, 5000, 1, 10));
        let expected = [
            "first faults of 1 of 2 devices were reported",
            "40 faults, but the log has 9 and counts 30 dropped ones",
        ];
        assert_eq!(seen, expected);
        assert_eq!(failures("nothing"), ["no figure for quiet or for faulting"]);
    }

    #[test]
    fn an_overflow_is_reported_once_a_second() {
        let quiet = console(1000, 5000, 2, 11);
        let missing = ["0 lines report lost events"];
        assert_eq!(failures_of(&quiet, QueueSize::Insufficient), missing);
        let line = "smmu: events are lost: the queue was full\n";
        assert!(failures_of(&(quiet.clone() + line), QueueSize::Insufficient).is_empty());
        assert_eq!(
            failures_of(&(quiet + &line.repeat(9)), QueueSize::Insufficient),
            ["9 lines report lost events"]
        );
        let with_loss = console(1000, 5000, 2, 11) + line;
        assert_eq!(failures(&with_loss), ["1 lines report lost events"]);
    }
}
