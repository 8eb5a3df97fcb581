//! The report: a self-contained page.

mod plots;

use std::fmt::Write;

use super::figures::Figure;
use super::scaling::Scaling;
use super::table::{HEADS, Row, grouped, size};
use plots::{growth, kernels};

const STYLE: &str = include_str!("style.css");
/// Columns of text; the others have figures.
const WORDS: [&str; 3] = ["measurement", "attributes", "above the floor"];

/// The content of the page.
pub struct BenchReport<'a> {
    /// All of Tessera's figures.
    pub own: &'a [Figure],
    pub linux: &'a [Figure],
    /// The table's rows.
    pub rows: &'a [Row<'a>],
    /// The speedup by a second CPU.
    pub scaling: &'a [Scaling],
    /// Sentences on the machine, the versions, and the origin of Linux's figures.
    pub about: &'a [String],
    /// Consoles by name.
    pub logs: &'a [(String, String)],
}

impl BenchReport<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
             <title>Tessera: performance</title>\n<style>\n{STYLE}</style></head><body>\n<h1>Tessera: performance</h1>\n\
             <p>Guest instructions, medians; two figures in a cell are the operation and its inverse. QEMU counts \
             them (<code>-icount shift=0</code>), so they are the same on every host. Instructions are not time.</p>\n"
        );
        page += "<ul class=soft>\n";
        self.about.iter().for_each(|line| push(&mut page, &format!("<li>{}\n", escaped(line))));
        page += "</ul>\n<h2>Next to Linux</h2>\n";
        plots(&mut page, kernels(self.rows));
        page += "<h2>Growth</h2>\n<p>A constant cost is a flat line, a proportional cost a line of slope one.</p>\n";
        plots(&mut page, growth(self.own, self.linux));
        self.machines(&mut page);
        self.time(&mut page);
        self.table(&mut page);
        self.raw(&mut page);
        page + "</body></html>\n"
    }

    fn machines(&self, page: &mut String) {
        let boots: Vec<&Figure> = self.own.iter().filter(|figure| figure.key.name == "boot").collect();
        let Some(smallest) = boots.iter().map(|boot| boot.alloc).min() else { return };
        page.push_str(
            "<h2>Machines</h2>\n<div class=wide><table><tr><th>RAM<th>instructions until the first measurement\
             <th>of the smallest<th>bytes of metadata<th>of RAM",
        );
        for boot in boots {
            let metadata = boot.fields.get("metadata").copied().unwrap_or(0);
            push(
                page,
                &format!(
                    "\n<tr><td>{}<td>{}<td>{:.2}<td>{}<td>{:.4} %",
                    size(boot.key.size),
                    grouped(boot.alloc),
                    boot.alloc as f64 / smallest as f64,
                    grouped(metadata),
                    metadata as f64 * 100.0 / boot.key.size as f64
                ),
            );
        }
        page.push_str("\n</table></div>\n");
    }

    fn time(&self, page: &mut String) {
        if self.scaling.is_empty() {
            return;
        }
        page.push_str("<h2>Time</h2>\n<p>Wall time, each CPU in its own thread; only ratios are meaningful.</p>\n<ul>\n");
        self.scaling
            .iter()
            .for_each(|scaling| push(page, &format!("<li>{}\n", escaped(&scaling.to_string()))));
        page.push_str("</ul>\n");
    }

    fn table(&self, page: &mut String) {
        page.push_str(
            "<h2>All figures</h2>\n<p>The floor counts one instruction for each 64 bytes that are zeroed, each leaf that is \
             stored and each chunk that is allocated or freed, and six for an invalidation with its CMD_SYNC. The remainder \
             without a name in the last column is locks, the heap, chunk lists and page-table walks. Tables and heap \
             bytes are those of one live buffer.</p>\n<div class=wide><table><tr>",
        );
        let heads = HEADS.into_iter().chain([WORDS[2]]);
        heads.for_each(|head| push(page, &format!("<th{}>{head}", class(head))));
        for row in self.rows {
            page.push_str("\n<tr>");
            let cells = row.cells();
            let cells = HEADS.iter().zip(&cells).chain([(&WORDS[2], &row.above_floor)]);
            cells.for_each(|(head, text)| push(page, &format!("<td{}>{}", class(head), cell(text))));
        }
        page.push_str("\n</table></div>\n");
    }

    fn raw(&self, page: &mut String) {
        page.push_str("<h2>Raw lines</h2>\n");
        for (name, log) in self.logs {
            push(
                page,
                &format!(
                    "<details><summary>{}</summary><pre>{}</pre></details>\n",
                    escaped(name),
                    escaped(log)
                ),
            );
        }
    }
}

fn plots(page: &mut String, plots: Vec<super::plot::Plot>) {
    page.push_str("<div class=plots>\n");
    plots.iter().filter_map(super::plot::Plot::svg).for_each(|svg| push(page, &svg));
    page.push_str("</div>\n");
}

fn class(head: &str) -> &'static str {
    if WORDS.contains(&head) { " class=words" } else { "" }
}

fn push(page: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = page.write_str(text);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The same for a cell, with line breaks allowed between the names of attributes.
fn cell(text: &str) -> String {
    escaped(text).replace('|', "|<wbr>")
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::super::table::rows;
    use super::*;

    #[test]
    fn the_page_is_complete_and_self_contained() {
        let console = "BENCH alloc size=4096 attrs=NO_KERNEL_MAPPING alloc_ticks=1000 free_ticks=500 chunks=1\n\
                       BENCH alloc size=65536 attrs=NO_KERNEL_MAPPING alloc_ticks=3000 free_ticks=500 chunks=1\n\
                       BENCH growth_live size=4096 attrs=NO_KERNEL_MAPPING alloc_ticks=9 free_ticks=5 chunks=1 live=1\n\
                       BENCH growth_live size=4096 attrs=NO_KERNEL_MAPPING alloc_ticks=9 free_ticks=5 chunks=1 live=10\n\
                       BENCH boot size=2147483648 attrs=0 alloc_ticks=7 free_ticks=0 chunks=0 metadata=4096\n";
        let own = from_console(console, "a");
        let page = BenchReport {
            own: &own,
            linux: &[],
            rows: &rows(&own, &[], &[]),
            scaling: &[],
            about: &["a <machine>".into()],
            logs: &[("operations".into(), console.into())],
        }
        .html();
        for text in [
            "Allocating without",
            "live buffers",
            "a &lt;machine>",
            "2 GiB",
            "BENCH growth_live",
            "<details>",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("src=") && !page.contains("href="), "the page refers to another file");
    }
}
