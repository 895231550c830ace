// SPDX-License-Identifier: GPL-2.0-only
//! What pictures of figures have in common: colours, words, and SVG around them.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{Drawable, PointCollection, Text};
use plotters::prelude::{RGBColor, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, IntoFont as _, TextStyle, WHITE};

/// What is drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Of all words.
pub const FONT: &str = "sans-serif";
/// Of a word that says nothing else, in pixels.
const SIZE: i32 = 12;

pub const BLACK: RGBColor = RGBColor(17, 24, 39);
pub const GREY: RGBColor = RGBColor(107, 114, 128);

/// Colours that people who see few colours can tell apart as well.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(138, 122, 0),
];

/// The colour of the scheduler that has this number, used in turn.
pub fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// A file in SVG of `size` pixels, with what `draw` draws.
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        draw(&area)?;
    }
    Ok(svg)
}

/// Draws an element whose coordinates are pixels.
pub fn put<'e, 'b, E>(area: &Area<'b>, element: &'e E) -> Result<()>
where
    &'e E: PointCollection<'e, (i32, i32)>,
    E: Drawable<SVGBackend<'b>>,
{
    let drawn = area.draw(element);
    drawn.map_err(|error| anyhow!("{error}"))
}

/// A line of text.
pub struct Words<'a> {
    text: &'a str,
    size: i32,
    style: FontStyle,
    colour: RGBColor,
    at: HPos,
}

impl<'a> Words<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            size: SIZE,
            style: FontStyle::Normal,
            colour: BLACK,
            at: HPos::Left,
        }
    }

    /// In pixels.
    pub fn size(self, size: i32) -> Self {
        Self { size, ..self }
    }

    pub fn bold(self) -> Self {
        let style = FontStyle::Bold;
        Self { style, ..self }
    }

    pub fn colour(self, colour: RGBColor) -> Self {
        Self { colour, ..self }
    }

    /// Which end of the text is where it is put.
    pub fn at(self, at: HPos) -> Self {
        Self { at, ..self }
    }

    /// Draws them; the middle of the line is at the height of `place`.
    pub fn put(self, area: &Area<'_>, place: (i32, i32)) -> Result<()> {
        let font = (FONT, self.size).into_font().style(self.style);
        let style = TextStyle::from(font).color(&self.colour);
        let style = style.pos(Pos::new(self.at, VPos::Center));
        let text = Text::new(self.text, place, style);
        let drawn = area.draw(&text);
        drawn.map_err(|error| anyhow!("{error}"))
    }
}
