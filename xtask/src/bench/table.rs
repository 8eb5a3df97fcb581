//! Tessera, Linux, their ratio and the floor, in rows.

use std::fmt::Write;

use super::figures::Figure;
use super::{above_floor, floor};

/// A measurement with its references.
pub struct Row<'a> {
    /// Tessera's.
    pub own: &'a Figure,
    /// Linux's, for the same operation.
    pub linux: Option<&'a Figure>,
    /// Linux's call without a kernel mapping, if the operation has one.
    pub unmapped: Option<&'a Figure>,
    /// The floor of both halves.
    pub floor: Option<(u64, u64)>,
    /// The cost above the floor, in words.
    pub above_floor: String,
}

/// Pairs the figures in instructions that have no other place on the page. `events` are the same measurements
/// with event counters.
pub fn rows<'a>(own: &'a [Figure], linux: &'a [Figure], events: &[Figure]) -> Vec<Row<'a>> {
    let elsewhere = |figure: &&Figure| {
        let key = &figure.key;
        matches!(key.mode.as_str(), "b" | "m") || key.name == "boot" || key.name.starts_with("growth_")
    };
    own.iter().filter(|figure| !elsewhere(figure)).map(|own| row(own, linux, events)).collect()
}

/// Pairs all figures.
pub fn all<'a>(own: &'a [Figure], linux: &'a [Figure]) -> Vec<Row<'a>> {
    own.iter().map(|own| row(own, linux, &[])).collect()
}

fn row<'a>(own: &'a Figure, linux: &'a [Figure], events: &[Figure]) -> Row<'a> {
    let find = |key| linux.iter().find(|figure| figure.key == key);
    let unmapped = unmapped(own).and_then(|(name, attrs)| find(own.key.named(name, attrs)));
    let counted = events.iter().find(|events| events.key == own.key);
    let above_floor = above_floor::sentence(own, counted);
    Row { own, linux: find(own.key.clone()), unmapped, floor: floor::of(own), above_floor }
}

/// The name and the attributes of the operation without kernel mapping.
fn unmapped(own: &Figure) -> Option<(&'static str, &'static str)> {
    match (own.key.name.as_str(), own.key.attrs.as_str()) {
        ("alloc", "NO_KERNEL_MAPPING") => Some(("noncontig", "0+zero")),
        ("alloc", "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING") => Some(("noncontig", "ALLOC_SINGLE_PAGES+zero")),
        ("frag_alloc", "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING") => {
            Some(("frag_noncontig", "ALLOC_SINGLE_PAGES+zero"))
        }
        ("mmap", _) => Some(("mmap", "noncontig")),
        ("contention", "alloc_64K_nkm") => Some(("contention", "noncontig_64K")),
        _ => None,
    }
}

/// Column heads, for the terminal and the page.
pub const HEADS: [&str; 10] = [
    "measurement",
    "size",
    "attributes",
    "Tessera",
    "Linux",
    "Linux / Tessera",
    "noncontiguous / Tessera",
    "Tessera / floor",
    "IO tables",
    "heap bytes",
];

impl Row<'_> {
    /// The cells of the columns in [`HEADS`]; two figures in one are alloc and free.
    pub fn cells(&self) -> [String; 10] {
        let key = &self.own.key;
        let name = match key.count {
            0 => key.name.clone(),
            threads => format!("{} x{threads}", key.name),
        };
        let pair = |figure: &Figure| both(figure, &grouped(figure.alloc), &grouped(figure.free));
        let ratio = |linux: &Figure| {
            both(linux, &times(linux.alloc, self.own.alloc), &times(linux.free, self.own.free))
        };
        // The memory of a live buffer.
        let held = |field| self.own.fields.get(field).copied().map_or_else(String::new, grouped);
        [
            name,
            size(key.size),
            key.attrs.clone(),
            pair(self.own),
            self.linux.map_or_else(String::new, pair),
            self.linux.map_or_else(String::new, ratio),
            self.unmapped.map_or_else(String::new, ratio),
            self.floor.map_or_else(String::new, |(alloc, free)| {
                format!("{} / {}", times(self.own.alloc, alloc), times(self.own.free, free))
            }),
            held("tables"),
            held("metadata"),
        ]
    }
}

fn both(figure: &Figure, alloc: &str, free: &str) -> String {
    if figure.free == 0 { alloc.to_owned() } else { format!("{alloc} / {free}") }
}

fn times(a: u64, b: u64) -> String {
    match a as f64 / b as f64 {
        _ if b == 0 => "-".into(),
        ratio if ratio < 100.0 => format!("{ratio:.2}"),
        ratio => grouped(ratio.round() as u64),
    }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that divides them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// The table for a terminal.
pub fn text(rows: &[Row<'_>]) -> String {
    let mut lines = vec![HEADS.map(String::from)];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = [0; HEADS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Text to the left, figures to the right. Writing to a string cannot fail.
            let _ = match column {
                0 | 2 => write!(text, "{cell:<width$}  "),
                _ => write!(text, "{cell:>width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::figures::{from_console, from_table};
    use super::*;

    #[test]
    fn a_row_has_both_kernels_and_the_floor() {
        let own = from_console(
            "BENCH alloc size=4096 attrs=NO_KERNEL_MAPPING alloc_ticks=1000 free_ticks=500 chunks=1",
            "a",
        );
        let linux = from_table(
            "mode\ttest\tsize\tattrs\tthreads\talloc\tfree\na\talloc\t4096\tNO_KERNEL_MAPPING\t0\t4000\t3000\n\
             a\tnoncontig\t4096\t0+zero\t0\t2500\t2000\n",
        );
        let rows = rows(&own, &linux, &[]);
        let expected = [
            "alloc",
            "4 KiB",
            "NO_KERNEL_MAPPING",
            "1 000 / 500",
            "4 000 / 3 000",
            "4.00 / 6.00",
            "2.50 / 4.00",
            "7.69 / 62.50",
            "",
            "",
        ];
        assert_eq!(rows[0].cells(), expected.map(String::from));
        assert!(text(&rows).lines().nth(1).unwrap().ends_with("7.69 / 62.50"));
    }

    #[test]
    fn numbers_are_grouped_in_threes() {
        assert_eq!([1, 1000, 123456, 1234567].map(grouped), ["1", "1 000", "123 456", "1 234 567"]);
    }
}
