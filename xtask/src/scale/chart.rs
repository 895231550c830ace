// SPDX-License-Identifier: GPL-2.0-only
//! The figures over the number of CPUs, a panel each, as a picture in SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{FIGURES, Points};

/// Pixels of a panel.
const PANEL: (u32, u32) = (480, 300);
const COLUMNS: usize = 2;
const FONT: &str = "sans-serif";

/// Colours that people who see few colours can tell apart as well.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

pub fn draw(points: &Points) -> Result<String> {
    let mut svg = String::new();
    {
        // The last panel has the names.
        let rows = (FIGURES.len() + 1).div_ceil(COLUMNS);
        let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        let areas = root.split_evenly((rows, COLUMNS));
        for (index, area) in areas.iter().enumerate() {
            let drawn = match index < FIGURES.len() {
                true => panel(area, points, index),
                false if index == FIGURES.len() => names(area, points),
                false => Ok(()),
            };
            drawn.map_err(|error| anyhow!("{error}"))?;
        }
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(area: &Area<'_>, points: &Points, index: usize) -> Result<(), Box<dyn std::error::Error>> {
    let figure = &FIGURES[index];
    let all = || points.values().flatten();
    let cpus = all().map(|(cpus, _)| *cpus);
    let (least, most) = cpus.fold((u32::MAX, 1), |(least, most), its| {
        (least.min(its), most.max(its))
    });
    let top = all()
        .map(|(_, point)| point[index])
        .filter(|value| value.is_finite());
    let top = top.fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(figure.unit, (FONT, 14))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(50)
        // One machine alone has a width too.
        .build_cartesian_2d((least..most.max(least + 1)).log_scale().base(2.0), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("CPUs")
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 11))
        .draw()?;
    for (number, points) in points.values().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let line = points.iter().map(|(cpus, point)| (*cpus, point[index]));
        let line: Vec<(u32, f64)> = line.filter(|(_, value)| value.is_finite()).collect();
        let dots = line.iter().map(|at| Circle::new(*at, 3, colour.filled()));
        chart.draw_series(dots)?;
        chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Which colour is whose.
fn names(area: &Area<'_>, points: &Points) -> Result<(), Box<dyn std::error::Error>> {
    for (number, sched) in points.keys().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let y = 50 + 24 * number as i32;
        area.draw(&PathElement::new(
            [(60, y), (84, y)],
            colour.stroke_width(2),
        ))?;
        area.draw(&Circle::new((72, y), 3, colour.filled()))?;
        area.draw(&Text::new(sched.as_str(), (94, y - 7), (FONT, 14)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_and_scheduler_is_in_the_picture() {
        let line = vec![
            (8, [60.0, 151.0, 0.0, 1.5, 99.0]),
            (64, [64.0, 160.0, f64::NAN, 1.6, 98.0]),
        ];
        let points = Points::from([
            ("scx_a".to_owned(), line.clone()),
            ("scx_b".to_owned(), line),
        ]);
        let svg = draw(&points).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.is_text())
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        for figure in &FIGURES {
            assert!(texts.contains(&figure.unit), "{texts:?}");
        }
        assert!(
            texts.contains(&"scx_a") && texts.contains(&"scx_b"),
            "{texts:?}"
        );
    }

    #[test]
    fn one_machine_and_nothing_to_see_is_a_picture_too() {
        let points = Points::from([("scx_a".to_owned(), vec![(8, [0.0; 5])])]);
        draw(&points).unwrap();
    }
}
