//! The plots of the page.

use crate::bench::figures::Figure;
use crate::bench::plot::{Axis, Line, Plot, Who};
use crate::bench::table::{Row, grouped, size};

const NKM: &str = "NO_KERNEL_MAPPING";
const SINGLE: &str = "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING";
const SIZES: Axis = Axis { title: "size of the buffer", value: size, base: 2.0 };
const PIECES: Axis = Axis { title: "size of each free piece", value: size, base: 2.0 };
const LIVE: Axis = Axis { title: "live buffers", value: grouped, base: 10.0 };
const STREAMS: Axis = Axis { title: "attached streams", value: grouped, base: 2.0 };
const CPUS: Axis = Axis { title: "CPUs", value: grouped, base: 2.0 };
const INSTRUCTIONS: &str = "guest instructions";

type Combine = fn(u64, u64) -> u64;
const UP: Combine = |up, _| up;
const DOWN: Combine = |_, down| down;

/// Both kernels, over size: measurement, attributes, title, half.
const KERNELS: [(&str, &str, &str, Combine); 8] = [
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

fn cost(rows: &[Row<'_>], name: &str, attrs: &str, title: &str, half: Combine) -> Plot {
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
    Plot { title: title.into(), x: SIZES, y: INSTRUCTIONS, lines }
}

/// A line of a growth plot: its name, the key of its measurement (name, attributes and size), and the half.
type PlotSeries = (&'static str, &'static str, &'static str, u64, Combine);

/// A plot over a count: title, axis, lines.
type Counted = (&'static str, Axis, &'static [PlotSeries]);

const COUNTED: [Counted; 4] = [
    (
        "With pieces that memory is in (16 MiB)",
        PIECES,
        &[("alloc", "growth_pieces", NKM, 16 << 20, UP), ("free", "growth_pieces", NKM, 16 << 20, DOWN)],
    ),
    (
        "With live buffers",
        LIVE,
        &[
            ("alloc 4 KiB", "growth_live", NKM, 4 << 10, UP),
            ("free 4 KiB", "growth_live", NKM, 4 << 10, DOWN),
            ("alloc 64 KiB", "growth_live", NKM, 64 << 10, UP),
            ("free 64 KiB", "growth_live", NKM, 64 << 10, DOWN),
        ],
    ),
    (
        "With attached streams: one more, and back",
        STREAMS,
        &[
            ("attach, own domain", "growth_streams", "own_domain", 0, UP),
            ("detach, own domain", "growth_streams", "own_domain", 0, DOWN),
            ("attach, shared domain", "growth_streams", "shared_domain", 0, UP),
            ("detach, shared domain", "growth_streams", "shared_domain", 0, DOWN),
        ],
    ),
    (
        "With attached streams: 64 KiB",
        STREAMS,
        &[
            ("alloc, own domains", "growth_streams", "own_domain", 64 << 10, UP),
            ("free, own domains", "growth_streams", "own_domain", 64 << 10, DOWN),
            ("alloc, shared domain", "growth_streams", "shared_domain", 64 << 10, UP),
            ("free, shared domain", "growth_streams", "shared_domain", 64 << 10, DOWN),
        ],
    ),
];
const COLOURS: [Who; 4] = [Who::Tessera, Who::Linux, Who::TesseraToo, Who::LinuxToo];

/// The growth of costs.
pub fn growth(own: &[Figure], linux: &[Figure]) -> Vec<Plot> {
    let mut plots = vec![by_size(own)];
    for (title, x, series) in COUNTED {
        let lines = series.iter().zip(COLOURS).map(|(series, who)| counted(own, series, who)).collect();
        plots.push(Plot { title: title.into(), x, y: INSTRUCTIONS, lines });
    }
    plots.push(cpus(own, linux));
    plots
}

fn counted(own: &[Figure], &(name, measurement, attrs, size, half): &PlotSeries, who: Who) -> Line {
    let is = |figure: &&Figure| {
        let key = &figure.key;
        (key.name.as_str(), key.attrs.as_str(), key.size) == (measurement, attrs, size)
    };
    let point = |figure: &Figure| (figure.key.count, half(figure.alloc, figure.free));
    let mut points: Vec<(u64, u64)> = own.iter().filter(is).map(point).collect();
    points.sort_unstable();
    Line { name: name.into(), who, points }
}

fn by_size(own: &[Figure]) -> Plot {
    let line = |name: &str, who, half: Combine| {
        let sizes = own.iter().filter(|figure| figure.key.name == "growth_size");
        let points = sizes.map(|figure| (figure.key.size, half(figure.alloc, figure.free))).collect();
        Line { name: name.into(), who, points }
    };
    Plot {
        title: "With the size of the buffer".into(),
        x: SIZES,
        y: INSTRUCTIONS,
        lines: vec![line("alloc", Who::Tessera, UP), line("free", Who::Linux, DOWN)],
    }
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
        x: CPUS,
        y: "guest instructions for one, all CPUs",
        lines: vec![
            line("Linux, alloc + free 64 KiB", Who::Linux, linux, alloc),
            line("Linux, map + unmap 4 KiB", Who::LinuxToo, linux, map),
            line("Tessera, alloc + free 64 KiB", Who::Tessera, own, alloc),
            line("Tessera, map + unmap 4 KiB", Who::TesseraToo, own, map),
            line("CMD_SYNC alone", Who::Floor, own, "sync"),
        ],
    }
}
