//! Checks the irqsoff latency that the checking build prints after its self-tests.

/// The maximum number of instructions with interrupts masked. Boot, a panic, and three visits of the memory
/// audit are exempt.
const LIMIT: u64 = 100_000;

/// The failures of the console of a boot with `-icount shift=0` and a counter of 1 GHz, where a tick is an
/// instruction: each place that masks interrupts for longer than the limit.
pub fn limited(console: &str) -> Vec<String> {
    let stretches = console.lines().filter_map(|line| line.strip_prefix("# irqsoff: "));
    let read: Vec<_> =
        stretches.map(|line| (line, line.split(' ').next().and_then(|n| n.parse::<u64>().ok()))).collect();
    if read.is_empty() {
        return vec!["no irqsoff latency is printed".into()];
    }
    let exceeds = |ticks: Option<u64>| ticks.is_none_or(|ticks| ticks > LIMIT);
    let failed = read.iter().filter(|(_, ticks)| exceeds(*ticks));
    failed.map(|(line, _)| format!("interrupts masked for more than {LIMIT} instructions: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_over_the_limit_are_named() {
        let console =
            "# irqsoff: 100001 ticks since a.rs:1:2, in x\n# irqsoff: 100000 ticks since b.rs:3:4, in y";
        let failures = limited(console);
        assert!(failures.len() == 1 && failures[0].contains("a.rs:1:2"), "{failures:?}");
    }

    #[test]
    fn missing_and_unreadable_figures_are_failures() {
        assert_eq!(limited("1..3\nok 1 x").len(), 1);
        assert_eq!(limited("# irqsoff: many ticks since a.rs:1:2, in x").len(), 1);
    }
}
