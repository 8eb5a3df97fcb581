//! The cost of both halves of an operation above the floor, with the additional events.

use super::figures::Figure;
use super::floor;
use super::table::grouped;

/// A sentence for a row; empty for one without a floor. `events` is the same measurement with event counters.
pub fn sentence(figure: &Figure, events: Option<&Figure>) -> String {
    let Some((alloc, free)) = floor::of(figure) else { return String::new() };
    let leaves = floor::leaves(figure);
    let half = |name: &str, cost: u64, floor: u64, stored: u64| {
        let extra = events.map(|events| extras(events, name, stored)).unwrap_or_default();
        format!("{}{extra}", grouped(cost.saturating_sub(floor)))
    };
    let (up, down) = (half("alloc", figure.alloc, alloc, leaves), half("free", figure.free, free, leaves));
    format!("{up} / {down}")
}

/// ` (32 more entries, 1 TLBI, 6 barriers)`
fn extras(events: &Figure, half: &str, leaves: u64) -> String {
    let count = |name: &str| events.fields.get(&format!("{half}_{name}")).copied().unwrap_or(0);
    let entries = count("stores").saturating_sub(leaves);
    let named = [
        (entries, "more entr", ["y", "ies"]),
        (count("tables"), "new table", ["", "s"]),
        (count("tlbis"), "TLBI", ["", "s"]),
        (count("barriers"), "barrier", ["", "s"]),
    ];
    let named = named.iter().filter(|(count, ..)| *count > 0);
    let words: Vec<String> = named
        .map(|(count, what, endings)| {
            format!("{} {what}{}", grouped(*count), endings[usize::from(*count > 1)])
        })
        .collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    #[test]
    fn additional_events_are_named() {
        let line = "BENCH alloc size=4096 attrs=0 alloc_ticks=1130 free_ticks=508 chunks=1";
        let own = &from_console(line, "a")[0];
        let events = &from_console(
            &format!("{line} alloc_stores=3 alloc_tlbis=1 alloc_barriers=6 free_stores=1"),
            "a",
        )[0];
        assert_eq!(sentence(own, Some(events)), "1 000 (2 more entries, 1 TLBI, 6 barriers) / 500");
        assert_eq!(sentence(own, None), "1 000 / 500");
    }
}
