// SPDX-License-Identifier: GPL-2.0-only
//! The figures over the number of CPUs, a panel each, as a picture in SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{FIGURES, Points};
use crate::picture::{self, Area, FONT, Words, colour};

/// Pixels of a panel.
const PANEL: (u32, u32) = (480, 300);
const COLUMNS: usize = 2;

pub fn draw(points: &Points) -> Result<String> {
    // The last panel has the names.
    let rows = (FIGURES.len() + 1).div_ceil(COLUMNS);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
    picture::svg(size, |root| {
        for (index, area) in root.split_evenly((rows, COLUMNS)).iter().enumerate() {
            if index < FIGURES.len() {
                panel(area, points, index).map_err(|error| anyhow!("{error}"))?;
            } else if index == FIGURES.len() {
                names(area, points)?;
            }
        }
        Ok(())
    })
}

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
        let colour = colour(number);
        let line = points.iter().map(|(cpus, point)| (*cpus, point[index]));
        let line: Vec<(u32, f64)> = line.filter(|(_, value)| value.is_finite()).collect();
        let dots = line.iter().map(|at| Circle::new(*at, 3, colour.filled()));
        chart.draw_series(dots)?;
        chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Which colour is whose.
fn names(area: &Area<'_>, points: &Points) -> Result<()> {
    for (number, sched) in points.keys().enumerate() {
        let y = 50 + 24 * number as i32;
        let line = PathElement::new([(60, y), (84, y)], colour(number).stroke_width(2));
        picture::put(area, &line)?;
        picture::put(area, &Circle::new((72, y), 3, colour(number).filled()))?;
        Words::new(sched).size(14).put(area, (94, y))?;
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
