// SPDX-License-Identifier: GPL-2.0-only
//! The comparison as a picture: a bar for each scheduler and figure, from the kernel's own median to
//! the scheduler's, on a scale of ratios, with a whisker over all rounds.
//!
//! The scale is logarithmic, so that twice and half are equally far from the middle.

use anyhow::Result;
use plotters::prelude::{PathElement, RGBColor, Rectangle};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color as _, ShapeStyle};

use super::results::{self, Cell, Row};
use super::stats::Verdict;
use crate::picture::{self, Area, BLACK, GREY, Words, colour};

/// Sizes in pixels.
const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
/// Title, subtitle and what the bars are.
const HEAD: i32 = 70;
/// Where the scale begins, right of the names, and ends, left of the results.
const LEFT: i32 = 170;
const RIGHT: i32 = 722;
/// Where median and ratio end, and the verdict begins.
const MEDIAN: i32 = RIGHT + 80;
const RATIO: i32 = RIGHT + 126;
const VERDICT: i32 = RIGHT + 138;
const BAR: i32 = 14;
const LINE: i32 = 20;
/// Of a figure, above its bars and below.
const ABOVE: i32 = 34;
const BELOW: i32 = LINE;
/// An upper bound of the width of a character of the legend.
const CHARACTER: i32 = 8;

const FAINT: RGBColor = RGBColor(229, 231, 235);
const GOOD: RGBColor = RGBColor(4, 120, 87);
const BAD: RGBColor = RGBColor(185, 28, 28);

/// Ratios are drawn within these; the text beside a bar has the true one.
const RATIO_LIMITS: (f64, f64) = (1.0 / 256.0, 256.0);

/// Draws `rows` as a file in SVG. Figures without a better side are left out.
pub fn draw(title: &str, subtitle: &str, rows: &[Row]) -> Result<String> {
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
    let (legend, first) = legend(&names);
    let heights = rows.iter().map(|row| height(row));
    let height = first + heights.sum::<i32>() + MARGIN;
    picture::svg((WIDTH as u32, height as u32), |area| {
        let chart = Chart {
            area,
            names: &names,
        };
        chart.head(title, subtitle)?;
        chart.legend(&legend)?;
        let mut top = first;
        for row in &rows {
            chart.row(row, top)?;
            top += self::height(row);
        }
        Ok(())
    })
}

/// Where the name of each scheduler goes, and where the first figure begins.
fn legend(names: &[&str]) -> (Vec<(i32, i32)>, i32) {
    let (mut x, mut y) = (MARGIN, MARGIN + HEAD);
    let place = |name: &&str| {
        let width = 40 + CHARACTER * name.chars().count() as i32;
        if x > MARGIN && x + width > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + LINE);
        }
        x += width;
        (x - width, y)
    };
    let places = names.iter().map(place).collect();
    (places, y + LINE + 8)
}

/// Of a figure.
fn height(row: &Row) -> i32 {
    ABOVE + LINE * row.cells.len() as i32 + BELOW
}

/// The scale of ratios of a figure, from `low` to `high` with 1 between them.
#[derive(Debug, PartialEq)]
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

    fn x(&self, ratio: f64) -> i32 {
        let part = (ratio / self.low).log2() / (self.high / self.low).log2();
        LEFT + (part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
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

struct Chart<'a, 'b> {
    area: &'a Area<'b>,
    /// In the order of their colours; the kernel's own scheduler is the first.
    names: &'a [&'a str],
}

impl Chart<'_, '_> {
    fn line(&self, from: (i32, i32), to: (i32, i32), style: impl Into<ShapeStyle>) -> Result<()> {
        picture::put(self.area, &PathElement::new([from, to], style))
    }

    fn colour(&self, sched: &str) -> RGBColor {
        let index = self.names.iter().position(|name| *name == sched);
        match index {
            None | Some(0) => GREY,
            Some(index) => colour(index - 1),
        }
    }

    fn head(&self, title: &str, subtitle: &str) -> Result<()> {
        let note = format!(
            "Bars: median by the median of {}. Whiskers: lowest and highest round. Logarithmic scale.",
            results::KERNEL_SCHED
        );
        let title = Words::new(title).size(18).bold();
        title.put(self.area, (MARGIN, MARGIN + 6))?;
        let subtitle = Words::new(subtitle).colour(GREY);
        subtitle.put(self.area, (MARGIN, MARGIN + 32))?;
        let note = Words::new(&note).colour(GREY);
        note.put(self.area, (MARGIN, MARGIN + 50))
    }

    fn legend(&self, places: &[(i32, i32)]) -> Result<()> {
        for (name, &(x, y)) in std::iter::zip(self.names, places) {
            let filled = self.colour(name).filled();
            picture::put(
                self.area,
                &Rectangle::new([(x, y), (x + 18, y + 12)], filled),
            )?;
            Words::new(name).put(self.area, (x + 24, y + 6))?;
        }
        Ok(())
    }

    /// A figure: its heading, its scale, a bar for each scheduler.
    fn row(&self, row: &Row, top: i32) -> Result<()> {
        let scale = Scale::over(row);
        let side = row.figure.better.map_or("", results::side);
        let heading = format!("{}: {} ({side} is better)", row.label, row.figure.name);
        let heading = Words::new(&heading).size(13).bold();
        heading.put(self.area, (MARGIN, top + 18))?;
        for (x, at, word) in [
            (MEDIAN, HPos::Right, "median"),
            (RATIO, HPos::Right, "ratio"),
            (VERDICT, HPos::Left, "verdict"),
        ] {
            let word = Words::new(word).size(11).colour(GREY).at(at);
            word.put(self.area, (x, top + 18))?;
        }
        let top = top + ABOVE;
        let bottom = top + LINE * row.cells.len() as i32;
        for tick in scale.ticks() {
            let x = scale.x(tick);
            let shade = if tick == 1.0 { GREY } else { FAINT };
            self.line((x, top), (x, bottom), shade)?;
            let label = tick_label(tick);
            let label = Words::new(&label).size(11).colour(GREY).at(HPos::Center);
            label.put(self.area, (x, bottom + 9))?;
        }
        for (number, cell) in row.cells.iter().enumerate() {
            let middle = top + LINE * number as i32 + LINE / 2;
            self.bar(row, cell, &scale, middle)?;
        }
        Ok(())
    }

    fn bar(&self, row: &Row, cell: &Cell, scale: &Scale, middle: i32) -> Result<()> {
        let right = |text: &str, x| Words::new(text).at(HPos::Right).put(self.area, (x, middle));
        right(&cell.sched, LEFT - 10)?;
        if let Some([median, min, max]) = ratios(row, cell) {
            let (one, x) = (scale.x(1.0), scale.x(median));
            let corners = [
                (one.min(x), middle - BAR / 2),
                (one.max(x), middle + BAR / 2),
            ];
            let filled = self.colour(&cell.sched).filled();
            picture::put(self.area, &Rectangle::new(corners, filled))?;
            let (from, to) = (scale.x(min), scale.x(max));
            self.line((from, middle), (to, middle), BLACK)?;
            for end in [from, to] {
                self.line((end, middle - 4), (end, middle + 4), BLACK)?;
            }
        }
        right(&(row.figure.show)(cell.summary.median), MEDIAN)?;
        if cell.sched == results::KERNEL_SCHED {
            return Ok(());
        }
        if let Some(ratio) = cell.ratio {
            right(&format!("{ratio:.2}"), RATIO)?;
        }
        let Some(verdict) = cell.verdict else {
            return Ok(());
        };
        let shade = match verdict {
            Verdict::Better => GOOD,
            Verdict::Worse => BAD,
            Verdict::NoDifference => GREY,
        };
        let word = Words::new(verdict.word()).colour(shade);
        word.put(self.area, (VERDICT, middle))
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{Results, tests::runs};
    use super::*;

    fn drawn() -> String {
        let names = ["scx_fast", "scx_same"].map(str::to_owned);
        let results = Results::of(&names, &runs());
        draw("messaging <1> & more", "Linux 7.3", &results.rows).unwrap()
    }

    #[test]
    fn the_picture_is_well_formed_and_has_each_scheduler_by_name() {
        let svg = drawn();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.is_element())
            .filter_map(|node| node.text())
            .map(str::trim)
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
        assert_eq!(middle, i32::midpoint(LEFT, RIGHT));
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
