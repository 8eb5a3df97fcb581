//! What a device loses while others fault all the time: seven of them, put into quarantine and armed again and again.

use super::figures::Figure;
use super::session::NEIGHBOUR;
use crate::artifacts::Artifacts;
use crate::error::{Error, Result};
use crate::tally::Tally;

/// A tenth.
const ROOM_PERCENT: u64 = 10;

/// What is compared: its name, and the number of a figure.
const COSTS: [(&str, &str); 2] = [("lending a page", "alloc_ticks"), ("a transfer", "transfer_ticks")];

/// Measures and judges. Each comparison is a test, and so is what the log says.
pub fn check(built: &Artifacts) -> Result<Tally> {
    let figures = NEIGHBOUR.measure(built)?;
    let log = NEIGHBOUR.log()?;
    let console = std::fs::read_to_string(&log).map_err(Error::file("read", &log))?;
    let mut tally = Tally::default();
    for complaint in judge(&figures, &console) {
        tally += Tally::one(complaint.is_none());
        complaint.iter().for_each(|line| println!("FAIL neighbour: {line}"));
    }
    figures.iter().for_each(|figure| println!("     {}", shown(figure)));
    println!("neighbour: {tally}");
    Ok(tally)
}

fn field(figure: &Figure, name: &str) -> u64 {
    figure.fields.get(name).copied().unwrap_or(0)
}

fn shown(figure: &Figure) -> String {
    let costs = COSTS.map(|(what, name)| format!("{what} {}", field(figure, name)));
    format!("{}: {}, {} faults", figure.key.attrs, costs.join(", "), field(figure, "faults"))
}

/// A complaint or none for each test.
fn judge(figures: &[Figure], console: &str) -> Vec<Option<String>> {
    let find = |attrs: &str| figures.iter().find(|figure| figure.key.attrs == attrs);
    let (Some(quiet), Some(faulting)) = (find("quiet"), find("faulting")) else {
        return vec![Some("there are not both figures".into())];
    };
    let costs = COSTS.map(|(what, name)| {
        let (before, after) = (field(quiet, name), field(faulting, name));
        let slow = before == 0 || after * 100 > before * (100 + ROOM_PERCENT);
        slow.then(|| format!("{what} costs {after} instead of {before}"))
    });
    let [neighbours, told] = ["neighbours", "told"].map(|name| field(faulting, name));
    let lost = (neighbours == 0 || told != neighbours)
        .then(|| format!("the first faults of {told} of {neighbours} devices were seen"));
    let (faults, logged) = (field(faulting, "faults"), Logged::of(console));
    // Some lines a second of each device, and at least one of each.
    let [least, most] = [neighbours, neighbours * 32];
    let unclean = (logged.all() != faults || !(least..=most).contains(&logged.shown))
        .then(|| format!("of {faults} faults the log shows {} and counts {}", logged.shown, logged.counted));
    costs.into_iter().chain([lost, unclean]).collect()
}

/// Events in a log.
struct Logged {
    /// With a line each.
    shown: u64,
    /// In lines that say how many more there were.
    counted: u64,
}

impl Logged {
    fn of(console: &str) -> Self {
        let lines = || console.lines().filter_map(|line| line.strip_prefix("smmu: "));
        let more = |line: &str| line.strip_suffix(" more events")?.rsplit(' ').next()?.parse::<u64>().ok();
        Self {
            shown: lines().filter(|line| line.starts_with("event ")).count() as u64,
            counted: lines().filter_map(more).sum(),
        }
    }

    fn all(&self) -> u64 {
        self.shown + self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    fn console(ticks: u64, transfer: u64, told: u64, more: u64) -> String {
        let line = |attrs: &str, ticks: u64, transfer: u64, rest: &str| {
            format!(
                "BENCH neighbour size=4096 attrs={attrs} alloc_ticks={ticks} free_ticks=0 iters=9 chunks=1 \
                 transfer_ticks={transfer} {rest}\n"
            )
        };
        let (quiet, faulting) = (
            line("quiet", 1000, 5000, "faults=0 neighbours=0 told=0"),
            line("faulting", ticks, transfer, &format!("faults=40 neighbours=2 told={told}")),
        );
        let events = "smmu: event F_TRANSLATION sid=0x8 iova=0x0 read\n".repeat(8)
            + "smmu: event F_TRANSLATION sid=0x10 iova=0x0 read\n";
        format!("{quiet}{events}smmu: sid=0x8 20 more events\nsmmu: sid=0x10 {more} more events\n{faulting}")
    }

    fn complaints(console: &str) -> Vec<String> {
        judge(&from_console(console, "a"), console).into_iter().flatten().collect()
    }

    #[test]
    fn a_tenth_is_allowed_and_no_more() {
        assert!(complaints(&console(1100, 5500, 2, 11)).is_empty());
        assert_eq!(complaints(&console(1101, 5500, 2, 11)), ["lending a page costs 1101 instead of 1000"]);
        assert_eq!(complaints(&console(900, 5501, 2, 11)), ["a transfer costs 5501 instead of 5000"]);
    }

    #[test]
    fn what_is_lost_is_found() {
        let seen = complaints(&console(1000, 5000, 1, 10));
        let expected =
            ["the first faults of 1 of 2 devices were seen", "of 40 faults the log shows 9 and counts 30"];
        assert_eq!(seen, expected);
        assert_eq!(complaints("nothing"), ["there are not both figures"]);
    }
}
