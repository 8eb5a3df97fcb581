//! The growth of costs: each series of measurements has a law, which is a test.

use super::figures::Figure;
use super::session::{GROWTH, MACHINES};
use super::table::{grouped, size};
use crate::artifacts::Artifacts;
use crate::counts::TestCounts;
use crate::error::Result;

/// The permitted dependence of a cost on the varied parameter.
#[derive(Clone, Copy)]
enum Law {
    /// Constant within this percentage of the first cost, which covers a search in a sorted list.
    Flat(u64),
    /// At most proportional from each point to the next, within this percentage.
    Linear(u64),
}

/// A series: its name, its parameter, and its law.
struct GrowthSeries {
    name: &'static str,
    over: Measure,
    law: Law,
}

/// A number of a figure.
type Measure = fn(&Figure) -> u64;

const SERIES: [GrowthSeries; 4] = [
    GrowthSeries { name: "growth_size", over: |figure| figure.key.size, law: Law::Linear(5) },
    // A slot for a small mapping is found among up to 512 pages of a table by reading at most eight words.
    GrowthSeries { name: "growth_live", over: |figure| figure.key.count, law: Law::Flat(20) },
    GrowthSeries { name: "growth_streams", over: |figure| figure.key.count, law: Law::Flat(25) },
    // Over the number of pieces. Pieces of 2 MiB are left out: one block descriptor replaces 512 pages there.
    GrowthSeries { name: "growth_pieces", over: pieces, law: Law::Linear(5) },
];
const BLOCK: u64 = 2 << 20;
/// The limit of the boot's instructions on a larger machine, as a multiple of the smallest one's.
const BOOT_TIMES: u64 = 3;
/// The limit of a large machine's metadata is RAM divided by this.
const METADATA_DIVISOR: u64 = 1000;

/// The measurements with a law.
pub fn measure(built: &Artifacts) -> Result<Vec<Figure>> {
    let mut figures = GROWTH.measure(built)?;
    for machine in MACHINES {
        figures.extend(machine.measure(built)?);
    }
    Ok(figures)
}

/// Measures and checks the laws. Each series is a test, and so are the boot and the metadata of each large
/// machine.
pub fn check(built: &Artifacts) -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    for failures in evaluate(&measure(built)?) {
        counts += TestCounts::named(format!("growth: {}", failures.join("; ")), failures.is_empty());
        failures.iter().for_each(|line| println!("FAIL growth: {line}"));
    }
    println!("growth: {counts}");
    Ok(counts)
}

/// The failures of each test.
fn evaluate(figures: &[Figure]) -> Vec<Vec<String>> {
    let series = SERIES
        .iter()
        .flat_map(|series| series.groups(figures).into_iter().map(|group| series.evaluate(&group)));
    series.chain(machines(figures)).collect()
}

fn pieces(figure: &Figure) -> u64 {
    figure.key.size / figure.key.count.max(1)
}

impl GrowthSeries {
    /// The measurements that differ only in the parameter, sorted by it.
    fn groups<'a>(&self, figures: &'a [Figure]) -> Vec<Vec<&'a Figure>> {
        let mut groups: Vec<Vec<&Figure>> = Vec::new();
        let is_block = |figure: &Figure| self.name == "growth_pieces" && figure.key.count >= BLOCK;
        for figure in figures.iter().filter(|figure| figure.key.name == self.name && !is_block(figure)) {
            let same = |other: &Figure| {
                other.key.attrs == figure.key.attrs
                    && (self.name == "growth_size" || other.key.size == figure.key.size)
            };
            match groups.iter_mut().find(|group| same(group[0])) {
                Some(group) => group.push(figure),
                None => groups.push(vec![figure]),
            }
        }
        groups.iter_mut().for_each(|group| group.sort_by_key(|figure| (self.over)(figure)));
        groups
    }

    fn evaluate(&self, group: &[&Figure]) -> Vec<String> {
        let halves: [(&str, Measure); 2] = [("alloc", |figure| figure.alloc), ("free", |figure| figure.free)];
        let mut failures = Vec::new();
        for (half, cost) in halves {
            let points: Vec<(u64, u64)> =
                group.iter().map(|figure| ((self.over)(figure), cost(figure))).collect();
            if let Some((before, after)) = self.law.violation(&points) {
                let key = &group[0].key;
                failures.push(format!(
                    "{} {} {} {half}: {} at {}, {} at {}",
                    self.name,
                    size(key.size),
                    key.attrs,
                    grouped(before.1),
                    before.0,
                    grouped(after.1),
                    after.0
                ));
            }
        }
        failures
    }
}

impl Law {
    /// The first two points between which the cost grows too fast.
    fn violation(self, points: &[(u64, u64)]) -> Option<((u64, u64), (u64, u64))> {
        let first = *points.first()?;
        let steps = points.iter().copied().zip(points.iter().copied().skip(1));
        steps
            .map(
                |(before, after)| {
                    if matches!(self, Self::Flat(_)) { (first, after) } else { (before, after) }
                },
            )
            .find(|(before, after)| {
                let (tolerance, times) = match self {
                    Self::Flat(tolerance) => (tolerance, 1),
                    Self::Linear(tolerance) => (tolerance, after.0.div_ceil(before.0.max(1))),
                };
                after.1 * 100 > before.1 * times * (100 + tolerance)
            })
    }
}

/// The large machines compared with the smallest: instructions of the boot, and metadata relative to RAM.
fn machines(figures: &[Figure]) -> Vec<Vec<String>> {
    let mut boots: Vec<&Figure> = figures.iter().filter(|figure| figure.key.name == "boot").collect();
    boots.sort_by_key(|boot| boot.key.size);
    let Some((smallest, large)) = boots.split_first() else { return Vec::new() };
    let mut tests = Vec::new();
    for boot in large {
        let (ram, metadata) = (boot.key.size, boot.fields.get("metadata").copied().unwrap_or(u64::MAX));
        let slow = boot.alloc > BOOT_TIMES * smallest.alloc;
        let times = || {
            format!(
                "{} instructions, {} with {}",
                grouped(boot.alloc),
                grouped(smallest.alloc),
                size(smallest.key.size)
            )
        };
        tests.push(slow.then(|| format!("boot with {}: {}", size(ram), times())).into_iter().collect());
        let heavy = metadata > ram / METADATA_DIVISOR;
        tests.push(
            heavy
                .then(|| format!("boot with {}: {} bytes of metadata", size(ram), grouped(metadata)))
                .into_iter()
                .collect(),
        );
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    fn failures(lines: &str) -> Vec<String> {
        let lines: String =
            lines.lines().map(|line| format!("BENCH {line} attrs=0 iters=1 chunks=1\n")).collect();
        evaluate(&from_console(&lines, "a")).into_iter().flatten().collect()
    }

    #[test]
    fn a_flat_series_is_compared_with_its_first_point() {
        let lines = "growth_live size=4096 alloc_ticks=1000 free_ticks=500 live=1\n\
                     growth_live size=4096 alloc_ticks=1040 free_ticks=500 live=10\n\
                     growth_live size=4096 alloc_ticks=1210 free_ticks=500 live=100\n";
        assert_eq!(failures(lines), ["growth_live 4 KiB 0 alloc: 1 000 at 1, 1 210 at 100"]);
        assert!(failures(&lines.replace("1210", "1200")).is_empty());
    }

    #[test]
    fn a_superlinear_step_is_reported() {
        let lines = "growth_size size=4096 alloc_ticks=1000 free_ticks=500\n\
                     growth_size size=16384 alloc_ticks=4100 free_ticks=500\n\
                     growth_size size=65536 alloc_ticks=20000 free_ticks=500\n";
        assert_eq!(failures(lines), ["growth_size 4 KiB 0 alloc: 4 100 at 16384, 20 000 at 65536"]);
    }

    #[test]
    fn measurements_of_other_sizes_are_separate_series() {
        let lines = "growth_live size=4096 alloc_ticks=1000 free_ticks=500 live=1\n\
                     growth_live size=65536 alloc_ticks=3000 free_ticks=500 live=1\n";
        assert!(failures(lines).is_empty());
    }

    #[test]
    fn large_machines_are_compared_with_the_smallest() {
        let boot = |ram: u64, ticks: u64, metadata: u64| {
            format!("boot size={ram} alloc_ticks={ticks} free_ticks=0 metadata={metadata}\n")
        };
        let small = boot(2 << 30, 1000, 2 << 20);
        assert!(failures(&(small.clone() + &boot(64 << 30, 3000, 68_719_476))).is_empty());
        let seen = failures(&(small + &boot(64 << 30, 3001, 68_719_477)));
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}
