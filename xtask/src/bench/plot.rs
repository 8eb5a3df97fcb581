//! Plots of cost against size, as SVG.

use std::error::Error;

use plotters::prelude::*;

use super::figures::Figure;
use super::table::{Row, size};

/// Pixels.
const EXTENT: (u32, u32) = (720, 440);
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(90, 90, 90), RGBColor(0, 140, 90)];

/// A line of a plot.
struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// One half of the measurements with this name and these attributes, for both kernels and at the floor.
pub fn cost(rows: &[Row<'_>], name: &str, attrs: &str, title: &str, free: bool) -> Option<String> {
    let half = |(alloc, freed): (u64, u64)| if free { freed } else { alloc };
    let of = |figure: &Figure| half((figure.alloc, figure.free));
    let mut chosen: Vec<&Row<'_>> = rows
        .iter()
        .filter(|row| (row.own.key.name.as_str(), row.own.key.attrs.as_str()) == (name, attrs))
        .collect();
    chosen.sort_by_key(|row| row.own.key.size);
    let line = |name, value: &dyn Fn(&Row<'_>) -> Option<u64>| Line {
        name,
        points: chosen
            .iter()
            .filter_map(|row| Some((row.own.key.size as f64, value(row).filter(|value| *value > 0)? as f64)))
            .collect(),
    };
    let lines = [
        line("Tessera", &|row| Some(of(row.own))),
        line("Linux", &|row| row.linux.map(of)),
        line("floor", &|row| row.floor.map(half)),
        line("Linux, noncontiguous", &|row| row.unmapped.map(of)),
    ];
    (lines[0].points.len() > 1).then(|| draw(title, &lines).ok()).flatten()
}

fn draw(title: &str, lines: &[Line]) -> Result<String, Box<dyn Error>> {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let (low, high) =
        all().fold((f64::MAX, 0f64), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let (first, last) =
        all().fold((f64::MAX, 0f64), |(low, high), point| (low.min(point.0), high.max(point.0)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, EXTENT).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(90)
            .build_cartesian_2d((first..last).log_scale().base(2.0), (low / 2.0..high * 2.0).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("bytes")
            .y_desc("guest instructions")
            .x_labels(8)
            .x_label_formatter(&|bytes| size(*bytes as u64))
            .y_label_formatter(&|count| short(*count))
            .draw()?;
        for (line, colour) in lines.iter().zip(COLOURS).filter(|(line, _)| !line.points.is_empty()) {
            chart
                .draw_series(
                    LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3),
                )?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(COLOURS[2])
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// A count with its thousands as a letter.
fn short(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{} M", count / 1e6),
        count if count >= 1e3 => format!("{} k", count / 1e3),
        count => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::super::table::rows;
    use super::*;

    #[test]
    fn a_plot_names_its_axes_and_lines() {
        let console = "BENCH alloc size=4096 attrs=0 alloc_ticks=1000 free_ticks=500 chunks=1\n\
                       BENCH alloc size=65536 attrs=0 alloc_ticks=3000 free_ticks=500 chunks=1\n";
        let own = from_console(console, "a");
        let svg = cost(&rows(&own, &[]), "alloc", "0", "the title", false).unwrap();
        for text in ["the title", "guest instructions", "bytes", "Tessera", "floor"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("Linux"));
        assert!(cost(&rows(&own, &[]), "mmap", "0", "none", false).is_none());
    }
}
