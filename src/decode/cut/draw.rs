//! Draws boxes and text on a frame.

use std::convert::Infallible;

use embedded_graphics::mono_font::MonoFont;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_7X13_BOLD, FONT_9X18_BOLD, FONT_10X20};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use ffmpeg_next::format::Pixel as PixelFormat;
use ffmpeg_next::frame::Video as Frame;

use super::{Drawing, DrawnBox};
use crate::palette;

/// The text of a caption, and what is behind it.
const CAPTION: (Rgb888, Rgb888) = (Rgb888::WHITE, Rgb888::new(20, 20, 24));

/// An upright frame in RGB, without padding.
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) rgb: Vec<u8>,
}

impl Canvas {
    /// Draws what is there at a time, seconds from the video's first frame.
    pub(super) fn draw(&mut self, drawing: &Drawing, at: f64) {
        let is_there = |from: f64, to: f64| from <= at && at < to;
        // Sorted, so that those which appear later need not be looked at.
        let begun = drawing.boxes.partition_point(|drawn| drawn.from_seconds <= at);
        for drawn in drawing.boxes[..begun].iter().filter(|drawn| is_there(drawn.from_seconds, drawn.to_seconds)) {
            self.boxed(drawn, at);
        }
        let lines = drawing.captions.iter().filter(|line| is_there(line.from_seconds, line.to_seconds));
        let font = self.font();
        let step = font.character_size.height as i32 + 2 * self.line_width() as i32;
        for (number, line) in lines.enumerate() {
            self.label(Point::new(0, number as i32 * step), &line.text, CAPTION.0, CAPTION.1);
        }
    }

    fn boxed(&mut self, drawn: &DrawnBox, at: f64) {
        let place = drawn.place(at);
        // Every pixel of an area is visited, even outside the frame.
        let along = |edge: usize, length: usize| place[edge].round().clamp(-8.0, length as f32 + 8.0) as i32;
        let ([left, right], [top, bottom]) =
            ([0, 2].map(|edge| along(edge, self.width)), [1, 3].map(|edge| along(edge, self.height)));
        let [colour, ink] =
            [drawn.colour, palette::ink(drawn.colour)].map(|[red, green, blue]| Rgb888::new(red, green, blue));
        let size = Size::new((right - left).max(1) as u32, (bottom - top).max(1) as u32);
        let style = PrimitiveStyle::with_stroke(colour, self.line_width());
        let Ok(()) = Rectangle::new(Point::new(left, top), size).into_styled(style).draw(self);
        let height = self.font().character_size.height as i32 + self.line_width() as i32;
        // Inside if there is no room above.
        let above = if top >= height { top - height } else { top };
        self.label(Point::new(left, above), &drawn.text, ink, colour);
    }

    /// Writes a line of text on a filled rectangle.
    fn label(&mut self, at: Point, text: &str, ink: Rgb888, behind: Rgb888) {
        if text.is_empty() {
            return;
        }
        let (font, margin) = (self.font(), self.line_width());
        let width = text.chars().count() as u32 * (font.character_size.width + font.character_spacing) + 2 * margin;
        let size = Size::new(width, font.character_size.height + margin);
        let Ok(()) = Rectangle::new(at, size).into_styled(PrimitiveStyle::with_fill(behind)).draw(self);
        let start = at + Point::new(margin as i32, margin as i32 / 2);
        let Ok(_) = Text::with_baseline(text, start, MonoTextStyle::new(font, ink), Baseline::Top).draw(self);
    }

    /// Lines of a frame of 1080p are 4 pixels wide.
    fn line_width(&self) -> u32 {
        (self.width.min(self.height) as u32 / 270).max(1)
    }

    fn font(&self) -> &'static MonoFont<'static> {
        match self.width.min(self.height) {
            ..240 => &FONT_6X10,
            240..480 => &FONT_7X13_BOLD,
            480..720 => &FONT_9X18_BOLD,
            _ => &FONT_10X20,
        }
    }

    /// The picture as FFmpeg takes it.
    pub(super) fn frame(&self) -> Frame {
        let mut frame = Frame::new(PixelFormat::RGB24, self.width as u32, self.height as u32);
        let stride = frame.stride(0);
        for (to, from) in frame.data_mut(0).chunks_mut(stride).zip(self.rgb.chunks(3 * self.width)) {
            to[..from.len()].copy_from_slice(from);
        }
        frame
    }
}

impl DrawnBox {
    /// Where it is at a time.
    fn place(&self, at: f64) -> [f32; 4] {
        let length = self.to_seconds - self.from_seconds;
        let share = if length > 0.0 { ((at - self.from_seconds) / length) as f32 } else { 0.0 };
        std::array::from_fn(|edge| self.from[edge] + (self.to[edge] - self.from[edge]) * share)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(at.x), usize::try_from(at.y)) else { continue };
            if x < self.width && y < self.height {
                let start = 3 * (y * self.width + x);
                self.rgb[start..start + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Caption;
    use super::*;

    fn canvas() -> Canvas {
        Canvas { width: 60, height: 40, rgb: vec![0; 3 * 60 * 40] }
    }

    fn drawn(from: [f32; 4], to: [f32; 4]) -> DrawnBox {
        DrawnBox { from_seconds: 1.0, to_seconds: 2.0, from, to, colour: [255, 0, 0], text: String::new() }
    }

    fn at(canvas: &Canvas, x: usize, y: usize) -> [u8; 3] {
        canvas.rgb.as_chunks::<3>().0[y * canvas.width + x]
    }

    #[test]
    fn a_box_moves_from_one_place_to_the_next_and_vanishes() {
        let drawing =
            Drawing { boxes: vec![drawn([10.0, 20.0, 20.0, 30.0], [30.0, 20.0, 40.0, 30.0])], captions: vec![] };
        let left_edges = |seconds: f64| {
            let mut canvas = canvas();
            canvas.draw(&drawing, seconds);
            (0..60).find(|&x| at(&canvas, x, 25) == [255, 0, 0])
        };
        assert_eq!([0.9, 1.0, 1.5, 2.0].map(left_edges), [None, Some(10), Some(20), None]);
    }

    #[test]
    fn boxes_beyond_the_frame_and_text_in_any_language_are_drawn_as_far_as_they_can_be() {
        let mut canvas = canvas();
        let mut outside = drawn([-1e9, -5.0, 1e9, 80.0], [f32::MAX; 4]);
        outside.text = "日本 grüßt".to_owned();
        let caption = Caption { from_seconds: 0.0, to_seconds: 9.0, text: "wave 0.97".to_owned() };
        canvas.draw(&Drawing { boxes: vec![outside], captions: vec![caption] }, 1.0);
        assert!(canvas.rgb.contains(&255));
    }
}
