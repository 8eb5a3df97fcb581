//! The plots of the page.

use crate::bench::figures::Figure;
use crate::bench::plot::{Axis, Line, Plot, Role};
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
    ("alloc", NKM, "Freeing without a kernel mapping", DOWN),
    ("alloc", "0", "Allocating with a kernel mapping", UP),
    ("alloc", "0", "Freeing with a kernel mapping", DOWN),
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
    let line = |name: &str, role, value: &dyn Fn(&Row<'_>) -> Option<u64>| Line {
        name: name.into(),
        role,
        points: chosen.iter().filter_map(|row| Some((row.own.key.size, value(row)?))).collect(),
    };
    let lines = vec![
        line("Linux", Role::Linux, &|row| row.linux.map(of)),
        line("Linux, noncontiguous", Role::LinuxSecond, &|row| row.unmapped.map(of)),
        line("Tessera", Role::Tessera, &|row| Some(of(row.own))),
        line("floor", Role::Floor, &|row| row.floor.map(|(up, down)| half(up, down))),
    ];
    Plot { title: title.into(), x: SIZES, y: INSTRUCTIONS, lines }
}

/// A line of a growth plot: its name, the key of its measurement (name, attributes and size), and the half.
type PlotSeries = (&'static str, &'static str, &'static str, u64, Combine);

/// A plot over a count: title, axis, lines.
type Counted = (&'static str, Axis, &'static [PlotSeries]);

const COUNTED: [Counted; 4] = [
    (
        "16 MiB over the size of free pieces",
        PIECES,
        &[("alloc", "growth_pieces", NKM, 16 << 20, UP), ("free", "growth_pieces", NKM, 16 << 20, DOWN)],
    ),
    (
        "Over live buffers",
        LIVE,
        &[
            ("alloc 4 KiB", "growth_live", NKM, 4 << 10, UP),
            ("free 4 KiB", "growth_live", NKM, 4 << 10, DOWN),
            ("alloc 64 KiB", "growth_live", NKM, 64 << 10, UP),
            ("free 64 KiB", "growth_live", NKM, 64 << 10, DOWN),
        ],
    ),
    (
        "Attach and detach over attached streams",
        STREAMS,
        &[
            ("attach, own domain", "growth_streams", "own_domain", 0, UP),
            ("detach, own domain", "growth_streams", "own_domain", 0, DOWN),
            ("attach, shared domain", "growth_streams", "shared_domain", 0, UP),
            ("detach, shared domain", "growth_streams", "shared_domain", 0, DOWN),
        ],
    ),
    (
        "64 KiB over attached streams",
        STREAMS,
        &[
            ("alloc, own domains", "growth_streams", "own_domain", 64 << 10, UP),
            ("free, own domains", "growth_streams", "own_domain", 64 << 10, DOWN),
            ("alloc, shared domain", "growth_streams", "shared_domain", 64 << 10, UP),
            ("free, shared domain", "growth_streams", "shared_domain", 64 << 10, DOWN),
        ],
    ),
];
const COLOURS: [Role; 4] = [Role::Tessera, Role::Linux, Role::TesseraSecond, Role::LinuxSecond];

/// The growth of costs.
pub fn growth(own: &[Figure], linux: &[Figure]) -> Vec<Plot> {
    let mut plots = vec![by_size(own)];
    for (title, x, series) in COUNTED {
        let lines = series.iter().zip(COLOURS).map(|(series, role)| counted(own, series, role)).collect();
        plots.push(Plot { title: title.into(), x, y: INSTRUCTIONS, lines });
    }
    plots.push(cpus(own, linux));
    plots
}

fn counted(own: &[Figure], &(name, measurement, attrs, size, half): &PlotSeries, role: Role) -> Line {
    let is = |figure: &&Figure| {
        let key = &figure.key;
        (key.name.as_str(), key.attrs.as_str(), key.size) == (measurement, attrs, size)
    };
    let point = |figure: &Figure| (figure.key.count, half(figure.alloc, figure.free));
    let mut points: Vec<(u64, u64)> = own.iter().filter(is).map(point).collect();
    points.sort_unstable();
    Line { name: name.into(), role, points }
}

fn by_size(own: &[Figure]) -> Plot {
    let line = |name: &str, role, half: Combine| {
        let sizes = own.iter().filter(|figure| figure.key.name == "growth_size");
        let points = sizes.map(|figure| (figure.key.size, half(figure.alloc, figure.free))).collect();
        Line { name: name.into(), role, points }
    };
    Plot {
        title: "Over the size of the buffer".into(),
        x: SIZES,
        y: INSTRUCTIONS,
        lines: vec![line("alloc", Role::Tessera, UP), line("free", Role::Linux, DOWN)],
    }
}

/// The cost of an operation over the number of concurrent CPUs.
fn cpus(own: &[Figure], linux: &[Figure]) -> Plot {
    let line = |name: &str, role, figures: &[Figure], work: &str| {
        let is = |figure: &&Figure| {
            let key = &figure.key;
            key.mode == "c" && key.name == "contention" && key.attrs == work
        };
        let points = figures.iter().filter(is).map(|figure| (figure.key.count, figure.alloc)).collect();
        Line { name: name.into(), role, points }
    };
    let (alloc, map) = ("alloc_64K_nkm", "map_single_4K");
    Plot {
        title: "Over concurrent CPUs".into(),
        x: CPUS,
        y: "guest instructions per operation, all CPUs",
        lines: vec![
            line("Linux, alloc + free 64 KiB", Role::Linux, linux, alloc),
            line("Linux, map + unmap 4 KiB", Role::LinuxSecond, linux, map),
            line("Tessera, alloc + free 64 KiB", Role::Tessera, own, alloc),
            line("Tessera, map + unmap 4 KiB", Role::TesseraSecond, own, map),
            line("CMD_SYNC alone", Role::Floor, own, "sync"),
        ],
    }
}
