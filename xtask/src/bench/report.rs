//! The report: one page that needs no other file.

use std::fmt::Write;

use super::figures::Figure;
use super::peer::Peer;
use super::plot;
use super::table::{HEADS, Row, rows};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-size:13px}td,th{padding:3px 10px;border-bottom:1px solid #ddd;\
text-align:right;white-space:nowrap}td:nth-child(1),td:nth-child(3),th:nth-child(1),th:nth-child(3)\
{text-align:left}.plots{display:flex;flex-wrap:wrap;gap:12px}svg{max-width:100%;height:auto;border:1px solid #ddd}";

/// Plots: measurement, attributes, title, whether of the half that takes back.
const PLOTS: [(&str, &str, &str, bool); 8] = [
    ("alloc", "NO_KERNEL_MAPPING", "Allocating without a kernel mapping", false),
    ("alloc", "NO_KERNEL_MAPPING", "Freeing it", true),
    ("alloc", "0", "Allocating with a kernel mapping", false),
    ("alloc", "0", "Freeing it", true),
    ("frag_alloc", "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING", "Allocating from single frames", false),
    ("frag_alloc", "ALLOC_SINGLE_PAGES|NO_KERNEL_MAPPING", "Freeing them", true),
    ("mmap", "NO_KERNEL_MAPPING", "mmap of a buffer, seen from the program", false),
    ("mmap", "NO_KERNEL_MAPPING", "munmap", true),
];

/// The page.
pub fn html(own: &[Figure], peer: &Peer, versions: &str) -> String {
    let rows = rows(own, &peer.figures);
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Tessera: performance</title><style>{STYLE}</style>\n\
         <h1>Tessera: performance</h1>\n<p>Guest instructions, medians; two figures in a cell are the operation and what \
         takes it back. Counted by QEMU (<code>-icount shift=0</code>), so they are the same on every host, but \
         instructions are not time.</p>\n<p>{}<br>{}</p>\n",
        escaped(versions),
        escaped(&peer.source)
    );
    page.push_str("<div class=plots>\n");
    for (name, attrs, title, free) in PLOTS {
        page.push_str(&plot::cost(&rows, name, attrs, title, free).unwrap_or_default());
    }
    page.push_str("</div>\n");
    table(&mut page, &rows);
    page.push_str(
        "<p>Raw lines: <a href=mode-a.log>one CPU</a>, <a href=mode-c.log>four CPUs</a>.</p>\n</html>\n",
    );
    page
}

fn table(page: &mut String, rows: &[Row<'_>]) {
    page.push_str("<h2>All figures</h2>\n<table><tr>");
    // Writing to a string does not fail.
    HEADS.iter().for_each(|head| _ = write!(page, "<th>{head}"));
    for row in rows {
        page.push_str("\n<tr>");
        row.cells().iter().for_each(|cell| _ = write!(page, "<td>{}", escaped(cell)));
    }
    page.push_str("\n</table>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
