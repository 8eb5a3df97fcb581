//! Figures, read from a console's `BENCH` lines or from one of the peer's tables.

use std::collections::{BTreeMap, HashMap};

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub key: Key,
    /// Ticks of the operation (allocate, map; for contention both halves).
    pub alloc: u64,
    /// Ticks of the inverse operation (free, unmap).
    pub free: u64,
    /// Physically contiguous chunks.
    pub chunks: u64,
    /// All fields of the line, by name.
    pub fields: BTreeMap<String, u64>,
}

/// The key of a measurement.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    /// `a`: one CPU; `c`: four.
    pub mode: String,
    /// The measurement's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Attributes or variant, in a fixed order.
    pub attrs: String,
    /// The value of the varied field ([`VARIED`]); 0 without one.
    pub count: u64,
}

/// The varied field of a line: concurrent threads, live buffers, attached streams, or bytes of each free
/// piece of memory.
const VARIED: [&str; 4] = ["threads", "live", "streams", "piece"];

impl Key {
    /// The same measurement with another name and other attributes.
    pub fn named(&self, name: &str, attrs: &str) -> Self {
        Self { name: name.into(), attrs: attrs.into(), ..self.clone() }
    }
}

/// The figures in a console log.
pub fn from_console(console: &str, mode: &str) -> Vec<Figure> {
    console.lines().filter_map(|line| from_line(line, mode)).collect()
}

fn from_line(line: &str, mode: &str) -> Option<Figure> {
    let (name, rest) = line.strip_prefix("BENCH ")?.split_once(' ')?;
    let fields: HashMap<&str, &str> =
        rest.split_whitespace().filter_map(|word| word.split_once('=')).collect();
    let number = |field| fields.get(field).and_then(|value: &&str| value.parse().ok());
    Some(Figure {
        key: Key {
            mode: mode.into(),
            name: name.into(),
            size: number("size")?,
            attrs: in_order(fields.get("attrs")?),
            count: VARIED.into_iter().find_map(number).unwrap_or(0),
        },
        alloc: number("alloc_ticks")?,
        free: number("free_ticks")?,
        chunks: number("chunks")?,
        fields: numbers(&fields),
    })
}

/// The figures in a tab-separated table; the first line that is not a comment names the columns.
pub fn from_table(table: &str) -> Vec<Figure> {
    let mut lines = table.lines().filter(|line| !line.starts_with('#'));
    let columns: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    lines.filter_map(|line| from_row(&columns, line)).collect()
}

fn from_row(columns: &[&str], line: &str) -> Option<Figure> {
    let cells: HashMap<&str, &str> = columns.iter().copied().zip(line.split('\t')).collect();
    let number = |column| cells.get(column).and_then(|value: &&str| value.parse().ok());
    let text = |column| cells.get(column).copied().filter(|text| *text != "-").unwrap_or("0");
    let (alloc, free) = match text("test") {
        "contention" => (number("per_op").or_else(|| number("alloc"))?, 0),
        _ => (number("alloc")?, number("free")?),
    };
    Some(Figure {
        key: Key {
            mode: text("mode").into(),
            name: text("test").into(),
            size: number("size")?,
            attrs: in_order(text("attrs")),
            count: VARIED.into_iter().find_map(number).unwrap_or(0),
        },
        alloc,
        free,
        chunks: number("chunks").unwrap_or(0),
        fields: numbers(&cells),
    })
}

fn numbers(words: &HashMap<&str, &str>) -> BTreeMap<String, u64> {
    words.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.parse().ok()?))).collect()
}

/// Names joined by `|`, sorted: the two kernels print them in different orders.
fn in_order(attrs: &str) -> String {
    let mut names: Vec<&str> = attrs.split('|').collect();
    names.sort_unstable();
    names.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_line_is_parsed() {
        let console = "cntfrq=1000000000\nBENCH alloc size=4096 attrs=WRITE_COMBINE|NO_KERNEL_MAPPING \
                       alloc_ticks=10 free_ticks=5 iters=64 chunks=1 commands=2\nBENCH broken size=x\n";
        let figures = from_console(console, "a");
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].alloc, figures[0].free, figures[0].chunks), (10, 5, 1));
        assert_eq!(figures[0].key.attrs, "NO_KERNEL_MAPPING|WRITE_COMBINE");
        assert_eq!(figures[0].fields.get("commands"), Some(&2));
    }

    #[test]
    fn a_table_is_parsed_by_its_column_names() {
        let table = "# comment\nmode\ttest\tsize\tattrs\tthreads\talloc\tfree\tper_op\n\
                     a\tmap_single\t4096\t-\t-\t923\t2068\t-\nc\tcontention\t4096\tx\t4\t-\t-\t3044\n";
        let figures = from_table(table);
        assert_eq!((figures[0].alloc, figures[0].free), (923, 2068));
        assert_eq!((figures[0].key.attrs.as_str(), figures[0].key.count), ("0", 0));
        assert_eq!((figures[1].alloc, figures[1].key.count), (3044, 4));
    }
}
