//! A plot as SVG: lines over logarithmic axes.
//!
//! The page defines the colours: it maps the few used here to ones that suit its background.

use std::error::Error;

use plotters::prelude::*;

/// Pixels.
const EXTENT: (u32, u32) = (560, 380);
/// Text, axes and grid; the page gives them its own colours.
pub const INK: RGBColor = BLACK;
const GRID: RGBColor = RGBColor(128, 128, 128);
const FONT: &str = "sans-serif";

/// The meaning of a line, which selects its colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Tessera, and a second line of it.
    Tessera,
    TesseraSecond,
    /// Linux, and its call without a kernel mapping.
    Linux,
    LinuxSecond,
    Floor,
}

/// A line of a plot.
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its colour.
    pub role: Role,
    /// Points, from left to right. Zeroes have no logarithm and are left out.
    pub points: Vec<(u64, u64)>,
}

/// A horizontal axis.
#[derive(Clone, Copy)]
pub struct Axis {
    /// The title, with the unit.
    pub title: &'static str,
    /// The format of its values.
    pub value: fn(u64) -> String,
    /// Labels are at powers of this.
    pub base: f64,
}

pub struct Plot {
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The title of the vertical axis, with the unit.
    pub y: &'static str,
    /// The lines; those without points are left out.
    pub lines: Vec<Line>,
}

impl Role {
    fn colour(self) -> RGBColor {
        match self {
            Self::Tessera => RGBColor(24, 128, 220),
            Self::TesseraSecond => RGBColor(0, 170, 160),
            Self::Linux => RGBColor(213, 80, 40),
            Self::LinuxSecond => RGBColor(214, 150, 20),
            Self::Floor => RGBColor(130, 130, 130),
        }
    }
}

impl Plot {
    /// The SVG element; `None` when no line has two points.
    pub fn svg(&self) -> Option<String> {
        let is_drawn = |line: &&Line| line.visible().count() > 1;
        let lines: Vec<&Line> = self.lines.iter().filter(is_drawn).collect();
        (!lines.is_empty()).then(|| self.draw(&lines).ok()).flatten()
    }

    fn draw(&self, lines: &[&Line]) -> Result<String, Box<dyn Error>> {
        let range = |of: fn((f64, f64)) -> f64| {
            let values = lines.iter().flat_map(|line| line.visible()).map(of);
            values.fold((f64::MAX, 0f64), |(low, high), value| (low.min(value), high.max(value)))
        };
        let ((left, right), (low, high)) = (range(|point| point.0), range(|point| point.1));
        let top = high * legend_factor(lines.len(), low, high);
        // Powers of ten would be too few lines in a narrow range.
        let base = if top / low < 300.0 { 2.0 } else { 10.0 };
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, EXTENT).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .caption(&self.title, (FONT, 19, &INK))
                .margin(10)
                .margin_right(34)
                .x_label_area_size(46)
                .y_label_area_size(78)
                .build_cartesian_2d(
                    (left..right).log_scale().base(self.x.base),
                    (low / 1.6..top).log_scale().base(base),
                )?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID.mix(0.35))
                .axis_style(INK)
                .x_desc(self.x.title)
                .y_desc(self.y)
                .x_labels(8)
                .y_labels(6)
                .label_style((FONT, 14, &INK))
                .axis_desc_style((FONT, 15, &INK))
                .x_label_formatter(&|value| (self.x.value)(value.round() as u64))
                .y_label_formatter(&|value| short(*value))
                .draw()?;
            for line in lines {
                let style = line.role.colour().stroke_width(2);
                chart
                    .draw_series(LineSeries::new(line.visible(), style).point_size(3))?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font((FONT, 14, &INK))
                .draw()?;
            area.present()?;
        }
        Ok(svg)
    }
}

impl Line {
    fn visible(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.points
            .iter()
            .filter(|point| point.0 > 0 && point.1 > 0)
            .map(|point| (point.0 as f64, point.1 as f64))
    }
}

/// The factor above the highest point that leaves space for a legend of this many lines, each a fifteenth of
/// the height.
fn legend_factor(lines: usize, low: f64, high: f64) -> f64 {
    let part = (lines + 1) as f64 / 15.0;
    (1.6 * high / low).powf(part / (1.0 - part))
}

/// A count abbreviated with a letter for its thousands.
fn short(count: f64) -> String {
    let scaled = |count: f64, letter| format!("{}{letter}", (count * 10.0).round() / 10.0);
    match count {
        count if count >= 1e9 => scaled(count / 1e9, " G"),
        count if count >= 1e6 => scaled(count / 1e6, " M"),
        count if count >= 1e3 => scaled(count / 1e3, " k"),
        count => scaled(count, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(u64, u64)]) -> Plot {
        let line = |name: &str, role| Line { name: name.into(), role, points: points.to_vec() };
        Plot {
            title: "the title".into(),
            x: Axis { title: "bytes", value: |bytes| bytes.to_string(), base: 2.0 },
            y: "guest instructions",
            lines: vec![
                line("Tessera", Role::Tessera),
                Line { points: Vec::new(), ..line("Linux", Role::Linux) },
            ],
        }
    }

    #[test]
    fn a_plot_names_its_axes_and_lines() {
        let svg = plot(&[(4096, 1000), (65536, 3000)]).svg().unwrap();
        for text in ["the title", "guest instructions", "bytes", "Tessera"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("Linux"));
    }

    #[test]
    fn a_single_point_is_not_plotted() {
        assert!(plot(&[(4096, 1000)]).svg().is_none());
        assert!(plot(&[(4096, 1000), (65536, 0)]).svg().is_none());
    }

    #[test]
    fn counts_are_abbreviated() {
        assert_eq!([5.0, 1500.0, 2.5e6, 1e9].map(short), ["5", "1.5 k", "2.5 M", "1 G"]);
    }
}
