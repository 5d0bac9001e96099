//! The chart: one bar for each contender in each shape, as long as its MB/s.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use super::report::Row;
use super::{SHAPES, Shape};

const WIDTH: u32 = 760;
const BAR: u32 = 26;
const TITLE: u32 = 40;
/// Room for names on the left and for numbers on the right.
const NAMES: i32 = 180;
const NUMBERS: i32 = 80;

/// Draws what has been measured.
pub(super) fn draw(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let shapes: Vec<Shape> = SHAPES.into_iter().filter(|shape| rows.iter().any(|row| row.shape == *shape)).collect();
    let height = shapes.len() * TITLE as usize + rows.len() * BAR as usize + BAR as usize;
    let area = SVGBackend::new(path, (WIDTH, u32::try_from(height)?)).into_drawing_area();
    let failed = || format!("failed to draw {}", path.display());
    bars(&area, &shapes, rows).with_context(failed)?;
    area.present().with_context(failed)
}

fn bars(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    shapes: &[Shape],
    rows: &[Row],
) -> anyhow::Result<()> {
    area.fill(&WHITE)?;
    let most = rows.iter().map(|row| row.median.mb_per_s).fold(1.0, f64::max);
    let room = f64::from(i32::try_from(WIDTH)? - NAMES - NUMBERS);
    let (bar, mut y) = (i32::try_from(BAR)?, 0);
    for shape in shapes {
        y += i32::try_from(TITLE)?;
        let title = format!("{shape}: MB/s to verified files on disk, all copies together");
        area.draw(&Text::new(title, (10, y - 20), ("sans-serif", 15).into_font()))?;
        for row in rows.iter().filter(|row| row.shape == *shape) {
            let long = (row.median.mb_per_s / most * room) as i32;
            let colour =
                if row.contender == "reelswarm" { RGBColor(0x1f, 0x6f, 0xb4) } else { RGBColor(0xa8, 0xb0, 0xb8) };
            area.draw(&Text::new(row.contender, (10, y + 5), ("sans-serif", 13).into_font()))?;
            area.draw(&Rectangle::new([(NAMES, y + 3), (NAMES + long.max(1), y + bar - 4)], colour.filled()))?;
            let number = format!("{:.0}", row.median.mb_per_s);
            area.draw(&Text::new(number, (NAMES + long + 8, y + 5), ("sans-serif", 13).into_font()))?;
            y += bar;
        }
    }
    Ok(())
}
