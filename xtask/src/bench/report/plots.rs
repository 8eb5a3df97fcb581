//! Which plots the page has.

use crate::bench::figures::Figure;
use crate::bench::plot::{Line, Plot, Who};
use crate::bench::table::{Row, grouped, size};

const NKM: &str = "NO_KERNEL_MAPPING";
const SINGLE: &str = "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING";
const INSTRUCTIONS: &str = "guest instructions";

type Half = fn(u64, u64) -> u64;
const UP: Half = |up, _| up;
const DOWN: Half = |_, down| down;

/// Both kernels, over size: measurement, attributes, title, half.
const KERNELS: [(&str, &str, &str, Half); 8] = [
    ("alloc", NKM, "Allocating without a kernel mapping", UP),
    ("alloc", NKM, "Freeing it", DOWN),
    ("alloc", "0", "Allocating with a kernel mapping", UP),
    ("alloc", "0", "Freeing that", DOWN),
    ("frag_alloc", SINGLE, "Allocating, memory in single frames", UP),
    ("frag_alloc", SINGLE, "Freeing single frames", DOWN),
    ("mmap", NKM, "mmap of a buffer, seen from the program", UP),
    ("mmap", NKM, "munmap", DOWN),
];

/// Costs over size, next to Linux and the floor.
pub fn kernels(rows: &[Row<'_>]) -> Vec<Plot> {
    KERNELS.map(|(name, attrs, title, half)| cost(rows, name, attrs, title, half)).into()
}

fn cost(rows: &[Row<'_>], name: &str, attrs: &str, title: &str, half: Half) -> Plot {
    let is = |row: &&Row<'_>| (row.own.key.name.as_str(), row.own.key.attrs.as_str()) == (name, attrs);
    let mut chosen: Vec<&Row<'_>> = rows.iter().filter(is).collect();
    chosen.sort_by_key(|row| row.own.key.size);
    let of = |figure: &Figure| half(figure.alloc, figure.free);
    let line = |name: &str, who, value: &dyn Fn(&Row<'_>) -> Option<u64>| Line {
        name: name.into(),
        who,
        points: chosen.iter().filter_map(|row| Some((row.own.key.size, value(row)?))).collect(),
    };
    let lines = vec![
        line("Linux", Who::Linux, &|row| row.linux.map(of)),
        line("Linux, noncontiguous", Who::LinuxToo, &|row| row.unmapped.map(of)),
        line("Tessera", Who::Tessera, &|row| Some(of(row.own))),
        line("floor", Who::Floor, &|row| row.floor.map(|(up, down)| half(up, down))),
    ];
    Plot { title: title.into(), x: "size in bytes", value: size, y: INSTRUCTIONS, lines }
}

/// Costs over what they could grow with.
pub fn growth(own: &[Figure], linux: &[Figure]) -> Vec<Plot> {
    let both = |name: &str,
                attrs: &str,
                size: Option<u64>,
                x: fn(&Figure) -> u64,
                words: [&str; 2],
                who: [Who; 2]| {
        [(words[0], UP, who[0]), (words[1], DOWN, who[1])].map(|(word, half, who)| {
            let is = |figure: &&Figure| {
                let key = &figure.key;
                key.name == name && key.attrs == attrs && size.is_none_or(|size| key.size == size)
            };
            let mut points: Vec<(u64, u64)> =
                own.iter().filter(is).map(|figure| (x(figure), half(figure.alloc, figure.free))).collect();
            points.sort_unstable();
            Line { name: word.into(), who, points }
        })
    };
    let first = [Who::Tessera, Who::Linux];
    let second = [Who::TesseraToo, Who::LinuxToo];
    let by_count: fn(&Figure) -> u64 = |figure| figure.key.count;
    let plot = |title: &str, x, value: fn(u64) -> String, lines: Vec<Line>| Plot {
        title: title.into(),
        x,
        value,
        y: INSTRUCTIONS,
        lines,
    };
    vec![
        plot(
            "With the size of the buffer",
            "size in bytes",
            size,
            both("growth_size", NKM, None, |figure| figure.key.size, ["alloc", "free"], first).into(),
        ),
        plot(
            "With pieces that memory is in (16 MiB)",
            "bytes of each free piece",
            size,
            both("growth_pieces", NKM, None, by_count, ["alloc", "free"], first).into(),
        ),
        plot(
            "With live buffers",
            "live buffers",
            grouped,
            [
                both("growth_live", NKM, Some(4 << 10), by_count, ["alloc 4 KiB", "free 4 KiB"], first),
                both("growth_live", NKM, Some(64 << 10), by_count, ["alloc 64 KiB", "free 64 KiB"], second),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        plot(
            "With attached streams: one stream more",
            "attached streams",
            grouped,
            [
                both(
                    "growth_streams",
                    "own_domain",
                    Some(0),
                    by_count,
                    ["attach, own domain", "detach"],
                    first,
                ),
                both(
                    "growth_streams",
                    "shared_domain",
                    Some(0),
                    by_count,
                    ["attach, shared domain", "detach"],
                    second,
                ),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        plot(
            "With attached streams: alloc and free of 64 KiB",
            "attached streams",
            grouped,
            [
                both(
                    "growth_streams",
                    "own_domain",
                    Some(64 << 10),
                    by_count,
                    ["alloc, own domains", "free"],
                    first,
                ),
                both(
                    "growth_streams",
                    "shared_domain",
                    Some(64 << 10),
                    by_count,
                    ["alloc, shared domain", "free"],
                    second,
                ),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        cpus(own, linux),
    ]
}

/// An operation of all CPUs together, over their number.
fn cpus(own: &[Figure], linux: &[Figure]) -> Plot {
    let line = |name: &str, who, figures: &[Figure], work: &str| {
        let is = |figure: &&Figure| {
            let key = &figure.key;
            key.mode == "c" && key.name == "contention" && key.attrs == work
        };
        let points = figures.iter().filter(is).map(|figure| (figure.key.count, figure.alloc)).collect();
        Line { name: name.into(), who, points }
    };
    let (alloc, map) = ("alloc_64K_nkm", "map_single_4K");
    Plot {
        title: "With CPUs that do the same at a time".into(),
        x: "CPUs",
        value: grouped,
        y: "guest instructions, an operation of all",
        lines: vec![
            line("Linux, alloc + free 64 KiB", Who::Linux, linux, alloc),
            line("Linux, map + unmap 4 KiB", Who::LinuxToo, linux, map),
            line("Tessera, alloc + free 64 KiB", Who::Tessera, own, alloc),
            line("Tessera, map + unmap 4 KiB", Who::TesseraToo, own, map),
        ],
    }
}
