// SPDX-License-Identifier: GPL-2.0-only
//! The comparison as a picture: a bar for each scheduler and figure, from the kernel's own median to
//! the scheduler's, on a scale of ratios, with a whisker over all rounds.
//!
//! The scale is logarithmic, so that twice and half are equally far from the middle.

use std::fmt::Write as _;

use super::results::{self, Cell, Row};
use super::stats::Verdict;

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where the scale begins, right of the names, and ends, left of the results.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 720.0;
const BAR: f64 = 14.0;
const LINE: f64 = 20.0;
/// An upper bound of the width of a character of the legend's 12 pixels.
const CHARACTER: f64 = 7.5;

/// Colours that people who see few colours can tell apart as well, used in turn; the first is for
/// the kernel's own scheduler.
const COLOURS: [&str; 8] = [
    "#6b7280", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00",
];

/// Ratios are drawn within these; the text beside a bar has the true one.
const RATIO_LIMITS: (f64, f64) = (1.0 / 256.0, 256.0);

/// Draws `rows` as a file in SVG. Figures without a better side are left out.
pub fn draw(title: &str, subtitle: &str, rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| row.figure.better.is_some())
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.cells) {
        if !names.contains(&cell.sched.as_str()) {
            names.push(&cell.sched);
        }
    }
    let mut chart = Chart {
        body: String::new(),
        y: MARGIN,
        scale: Scale::default(),
        names,
    };
    chart.head(title, subtitle);
    chart.legend();
    for row in rows {
        chart.scale = Scale::over(row);
        chart.row(row);
    }
    chart.finish()
}

/// The scale of ratios of a figure, from `low` to `high` with 1 between them.
#[derive(Debug, Default, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Wide enough for all bars and whiskers, symmetric, and in powers of two.
    fn over(row: &Row) -> Self {
        let ratios = row.cells.iter().filter_map(|cell| ratios(row, cell));
        let reaches = ratios.flatten().map(|ratio| ratio.log2().abs());
        let reach = reaches.fold(1.0, f64::max);
        let reach = reach.ceil().exp2();
        Self {
            low: 1.0 / reach,
            high: reach,
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        let part = (ratio / self.low).log2() / (self.high / self.low).log2();
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// Powers of two, at most nine of them.
    fn ticks(&self) -> Vec<f64> {
        let reach = self.high.log2().round();
        let step = (reach / 4.0).ceil();
        let count = (reach / step).floor();
        let mut tick = -count * step;
        let mut ticks = Vec::new();
        while tick <= count * step {
            ticks.push(tick.exp2());
            tick += step;
        }
        ticks
    }
}

/// Median, minimum and maximum of a cell by the median of the row's base.
fn ratios(row: &Row, cell: &Cell) -> Option<[f64; 3]> {
    let base = row.cells.first()?.summary.median;
    let summary = &cell.summary;
    let ratio = |value: f64| (value / base).clamp(RATIO_LIMITS.0, RATIO_LIMITS.1);
    (base > 0.0).then(|| [summary.median, summary.min, summary.max].map(ratio))
}

/// `1/4`, `1`, `4`.
fn tick_label(tick: f64) -> String {
    if tick < 1.0 {
        format!("1/{:.0}", 1.0 / tick)
    } else {
        format!("{tick:.0}")
    }
}

struct Chart<'a> {
    body: String,
    /// The top of what comes next.
    y: f64,
    /// That of the present figure.
    scale: Scale,
    names: Vec<&'a str>,
}

impl Chart<'_> {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let written = writeln!(self.body, "{element}");
        written.expect("a string takes everything");
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" {style}>{text}</text>"#
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {style}/>"#
        ));
    }

    fn colour(&self, sched: &str) -> &'static str {
        let index = self.names.iter().position(|name| *name == sched);
        COLOURS[index.unwrap_or_default() % COLOURS.len()]
    }

    fn head(&mut self, title: &str, subtitle: &str) {
        self.text(
            MARGIN,
            self.y + 14.0,
            r#"font-size="18" font-weight="bold""#,
            title,
        );
        self.text(MARGIN, self.y + 36.0, r##"fill="#4b5563""##, subtitle);
        let note = format!(
            "Bars: median by the median of {}. Whiskers: lowest and highest round. Logarithmic scale.",
            results::KERNEL_SCHED
        );
        self.text(MARGIN, self.y + 54.0, r##"fill="#4b5563""##, &note);
        self.y += 70.0;
    }

    fn legend(&mut self) {
        let mut x = MARGIN;
        for name in self.names.clone() {
            let width = 26.0 + CHARACTER * name.chars().count() as f64 + 14.0;
            if x > MARGIN && x + width > WIDTH - MARGIN {
                x = MARGIN;
                self.y += LINE;
            }
            let (y, colour) = (self.y, self.colour(name));
            self.put(format_args!(
                r#"<rect x="{x:.1}" y="{y:.1}" width="18" height="12" fill="{colour}"/>"#
            ));
            self.text(x + 24.0, y + 10.5, "", name);
            x += width;
        }
        self.y += LINE + 8.0;
    }

    /// A figure: its heading, its scale, a bar for each scheduler.
    fn row(&mut self, row: &Row) {
        let side = row.figure.better.map_or("", results::side);
        let heading = format!("{}: {} ({side} is better)", row.label, row.figure.name);
        self.y += 10.0;
        self.text(
            MARGIN,
            self.y + 12.0,
            r#"font-weight="bold" font-size="13""#,
            &heading,
        );
        for (x, style, word) in [
            (RIGHT + 80.0, r#"text-anchor="end""#, "median"),
            (RIGHT + 126.0, r#"text-anchor="end""#, "ratio"),
            (RIGHT + 138.0, "", "verdict"),
        ] {
            let style = format!(r##"{style} font-size="11" fill="#6b7280""##);
            self.text(x, self.y + 12.0, &style, word);
        }
        self.y += 24.0;
        let bottom = self.y + LINE * row.cells.len() as f64;
        for tick in self.scale.ticks() {
            let x = self.scale.x(tick);
            let colour = if tick == 1.0 { "#374151" } else { "#e5e7eb" };
            self.line((x, self.y), (x, bottom), &format!(r#"stroke="{colour}""#));
            let style = r##"text-anchor="middle" font-size="11" fill="#6b7280""##;
            self.text(x, bottom + 13.0, style, &tick_label(tick));
        }
        for cell in &row.cells {
            self.bar(row, cell);
            self.y += LINE;
        }
        self.y += LINE;
    }

    fn bar(&mut self, row: &Row, cell: &Cell) {
        let middle = self.y + LINE / 2.0;
        let baseline = middle + 4.0;
        self.text(LEFT - 10.0, baseline, r#"text-anchor="end""#, &cell.sched);
        if let Some([median, min, max]) = ratios(row, cell) {
            let (one, x) = (self.scale.x(1.0), self.scale.x(median));
            let (left, width) = (one.min(x), (one - x).abs());
            let (top, colour) = (middle - BAR / 2.0, self.colour(&cell.sched));
            self.put(format_args!(
                r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}" fill="{colour}"/>"#
            ));
            let (from, to) = (self.scale.x(min), self.scale.x(max));
            let style = r##"stroke="#111827" stroke-width="1.5""##;
            self.line((from, middle), (to, middle), style);
            for end in [from, to] {
                self.line((end, middle - 4.0), (end, middle + 4.0), style);
            }
        }
        let value = (row.figure.show)(cell.summary.median);
        self.text(RIGHT + 80.0, baseline, r#"text-anchor="end""#, &value);
        if cell.sched == results::KERNEL_SCHED {
            return;
        }
        if let Some(ratio) = cell.ratio {
            let ratio = format!("{ratio:.2}");
            self.text(RIGHT + 126.0, baseline, r#"text-anchor="end""#, &ratio);
        }
        let (word, colour) = match cell.verdict {
            Some(verdict @ Verdict::Better) => (verdict.word(), "#047857"),
            Some(verdict @ Verdict::Worse) => (verdict.word(), "#b91c1c"),
            Some(verdict @ Verdict::NoDifference) => (verdict.word(), "#6b7280"),
            None => return,
        };
        self.text(
            RIGHT + 138.0,
            baseline,
            &format!(r#"fill="{colour}""#),
            word,
        );
    }

    fn finish(self) -> String {
        let height = self.y + MARGIN;
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0}" height="{h:.0}" "#,
                r#"viewBox="0 0 {w:.0} {h:.0}" font-family="sans-serif" font-size="12" "#,
                r##"fill="#111827">"##,
                "\n",
                r##"<rect width="100%" height="100%" fill="#ffffff"/>"##,
                "\n{body}</svg>\n"
            ),
            w = WIDTH,
            h = height,
            body = self.body
        )
    }
}

/// `text` as it must be written between tags.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::results::{Results, tests::runs};
    use super::*;

    fn drawn() -> String {
        let names = ["scx_fast", "scx_same"].map(str::to_owned);
        let results = Results::of(&names, &runs());
        draw("messaging <1> & more", "Linux 7.3", &results.rows)
    }

    #[test]
    fn the_picture_is_well_formed_and_has_each_scheduler_by_name() {
        let svg = drawn();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.is_element())
            .filter_map(|node| node.text())
            .collect();
        for name in ["eevdf", "scx_fast", "scx_same"] {
            // Once in the legend, once for each of three figures.
            assert_eq!(
                texts.iter().filter(|text| **text == name).count(),
                4,
                "{name}"
            );
        }
        for text in [
            "messaging <1> & more",
            "Linux 7.3",
            "better",
            "no difference",
        ] {
            assert!(texts.contains(&text), "{text}");
        }
        assert!(texts.iter().all(|text| !text.contains("migrations")));
    }

    #[test]
    fn everything_lies_within_the_picture() {
        let svg = drawn();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let root = document.root_element();
        let number = |node: roxmltree::Node<'_, '_>, name| {
            node.attribute(name)
                .and_then(|text| text.parse::<f64>().ok())
        };
        let (width, height) = (number(root, "width"), number(root, "height"));
        for node in root.children() {
            for (name, limit) in [("x", width), ("x2", width), ("y", height), ("y2", height)] {
                let value = number(node, name).unwrap_or_default();
                assert!((0.0..limit.unwrap()).contains(&value), "{name}: {node:?}");
            }
        }
    }

    #[test]
    fn twice_and_half_are_equally_far_from_the_middle() {
        let scale = Scale {
            low: 0.25,
            high: 4.0,
        };
        let middle = scale.x(1.0);
        assert_eq!(middle, f64::midpoint(LEFT, RIGHT));
        assert_eq!(scale.x(2.0) - middle, middle - scale.x(0.5));
        assert_eq!(scale.x(1e9), RIGHT);
        assert_eq!(scale.ticks(), [0.25, 0.5, 1.0, 2.0, 4.0]);
        let wide = Scale {
            low: 1.0 / 256.0,
            high: 256.0,
        };
        assert_eq!(
            wide.ticks().map_labels(),
            "1/256 1/64 1/16 1/4 1 4 16 64 256"
        );
    }

    trait Labels {
        fn map_labels(&self) -> String;
    }

    impl Labels for Vec<f64> {
        fn map_labels(&self) -> String {
            let labels: Vec<String> = self.iter().map(|tick| tick_label(*tick)).collect();
            labels.join(" ")
        }
    }
}
