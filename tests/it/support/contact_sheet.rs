//! The example `contact_sheet`: a picture of an index, with a row for each video. A row shows thumbnails, with the
//! boxes of persons and the label of the segment, and a bar with the actions over time.
//!
//!     contact_sheet INDEX OUT.png
//!
//! The index must be small, have thumbnails, and consist of one run.
#![expect(clippy::unwrap_used, reason = "the tables have the schema of the index")]

#[path = "tables.rs"]
#[expect(dead_code, reason = "only tests use the other functions")]
mod tables;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_7X13, FONT_9X15_BOLD};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::Text;
use ffmpeg_next::format::Pixel as PixelFormat;
use ffmpeg_next::log;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Packet, Rational, codec, encoder, frame};
use serde_json::{Map, Value};

/// Thumbnails of one video.
const THUMBNAILS: usize = 6;
/// Maximum width and height of a thumbnail.
const CELL: (usize, usize) = (208, 156);
const MARGIN: usize = 12;
const TITLE: usize = 20;
const BAR: usize = 22;
const ROW: usize = TITLE + CELL.1 + 6 + BAR + 16;

const INK: Rgb888 = Rgb888::new(36, 36, 40);
const PAPER: Rgb888 = Rgb888::new(250, 249, 246);
const BOX: Rgb888 = Rgb888::new(255, 214, 10);
const COLOURS: [Rgb888; 12] = [
    Rgb888::new(230, 126, 34),
    Rgb888::new(192, 57, 43),
    Rgb888::new(41, 128, 185),
    Rgb888::new(127, 140, 141),
    Rgb888::new(155, 89, 182),
    Rgb888::new(243, 156, 180),
    Rgb888::new(93, 109, 126),
    Rgb888::new(149, 165, 166),
    Rgb888::new(22, 160, 133),
    Rgb888::new(39, 174, 96),
    Rgb888::new(120, 180, 60),
    Rgb888::new(211, 84, 120),
];

type Row = Map<String, Value>;

/// Draws a picture of a small index: thumbnails with boxes and labels, and a timeline of actions for each video.
#[derive(Parser)]
struct Arguments {
    /// The folder with the tables.
    index: PathBuf,
    /// The picture file to write.
    out: PathBuf,
    /// Maximum number of videos.
    #[arg(long, default_value_t = 12)]
    videos: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    ffmpeg_next::init()?;
    // FFmpeg's scaler warns about the brightness range of JPEG, which is correct.
    log::set_level(log::Level::Error);
    let [videos, actions, persons, thumbnails] =
        ["videos", "actions", "persons", "thumbnails"].map(|table| tables::rows(&arguments.index, table));
    let labels: BTreeSet<&str> = actions.iter().map(|row| text(row, "top_label")).collect();
    let colour = |label: &str| COLOURS[labels.iter().position(|own| *own == label).unwrap_or(0) % COLOURS.len()];
    let mut videos: Vec<&Row> = videos.iter().filter(|row| row["status"] == "ok").collect();
    // The number of a clip is in its file name, not in its folder.
    videos.sort_by_key(|row| name(row));
    videos.truncate(arguments.videos);
    let mut sheet = Sheet::new(
        2 * MARGIN + THUMBNAILS * (CELL.0 + 6),
        2 * MARGIN + videos.len() * ROW + labels.len().div_ceil(6) * 20,
    );
    for (number, video) in videos.iter().enumerate() {
        let of_video = |rows: &'_ [Row]| {
            rows.iter().filter(|row| row["video_id"] == video["video_id"]).cloned().collect::<Vec<_>>()
        };
        let top = MARGIN + number * ROW;
        sheet.video(top, video, &of_video(&actions), &of_video(&persons), &of_video(&thumbnails), &colour)?;
    }
    for (number, label) in labels.iter().enumerate() {
        let (x, y) = (MARGIN + number % 6 * 190, MARGIN + videos.len() * ROW + number / 6 * 20);
        sheet.fill(x, y, 14, 14, colour(label));
        sheet.write(x + 20, y + 11, label, INK);
    }
    sheet.save(&arguments.out)
}

/// The picture.
struct Sheet {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn new(width: usize, height: usize) -> Self {
        let paper = [PAPER.r(), PAPER.g(), PAPER.b()];
        Self { width, height, rgb: paper.repeat(width * height) }
    }

    /// Draws a row: the title, the thumbnails and the bar.
    fn video(
        &mut self,
        top: usize,
        video: &Row,
        actions: &[Row],
        persons: &[Row],
        thumbnails: &[Row],
        colour: &dyn Fn(&str) -> Rgb888,
    ) -> Result<(), Box<dyn Error>> {
        let seconds = number(video, "duration_seconds");
        let title = format!(
            "{}   {}   {}x{}   {seconds:.1} s   {} segments, {} boxes",
            name(video),
            text(video, "codec"),
            video["width"],
            video["height"],
            video["segments"],
            video["boxes"]
        );
        let title_style = MonoTextStyle::new(&FONT_9X15_BOLD, INK);
        Text::new(&title, Point::new(MARGIN as i32, top as i32 + 12), title_style).draw(self)?;
        let shown = thumbnails.len().min(THUMBNAILS);
        for place in 0..shown {
            let thumbnail = &thumbnails[(2 * place + 1) * thumbnails.len() / (2 * shown)];
            let picture = Picture::decode(thumbnail)?;
            let left = MARGIN + place * (CELL.0 + 6);
            self.paste(&picture, left, top + TITLE);
            let scale = picture.width as f64 / number(video, "width");
            for person in persons.iter().filter(|row| row["frame"] == thumbnail["frame"]) {
                let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|edge| number(person, edge) * scale);
                let corner = Point::new((left as f64 + x1) as i32, ((top + TITLE) as f64 + y1) as i32);
                let area = Rectangle::new(corner, Size::new((x2 - x1) as u32 + 1, (y2 - y1) as u32 + 1));
                area.into_styled(PrimitiveStyle::with_stroke(BOX, 2)).draw(self)?;
            }
            // The label is that of the segment whose middle is nearest.
            let time = number(thumbnail, "time_seconds");
            let distance =
                |row: &&Row| ((number(row, "start_seconds") + number(row, "end_seconds")) / 2.0 - time).abs();
            if let Some(segment) = actions.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))) {
                let label = text(segment, "top_label");
                let line = format!("{time:4.1} s {label} {:.2}", number(segment, "top_score"));
                self.fill(left, top + TITLE, line.len() * 7 + 6, 16, colour(label));
                self.write(left + 3, top + TITLE + 12, &line, Rgb888::WHITE);
            }
        }
        self.bar(top + TITLE + CELL.1 + 6, seconds, actions, colour);
        Ok(())
    }

    /// Draws the bar: the colour of each segment around its middle, and each label where it begins.
    fn bar(&mut self, top: usize, seconds: f64, actions: &[Row], colour: &dyn Fn(&str) -> Rgb888) {
        let width = (self.width - 2 * MARGIN) as f64;
        let middles: Vec<f64> =
            actions.iter().map(|row| f64::midpoint(number(row, "start_seconds"), number(row, "end_seconds"))).collect();
        let mut before = "";
        for (index, row) in actions.iter().enumerate() {
            let begin = if index == 0 { 0.0 } else { f64::midpoint(middles[index - 1], middles[index]) };
            let end = middles.get(index + 1).map_or(seconds, |next| f64::midpoint(middles[index], *next));
            let [from, to] = [begin, end].map(|time| MARGIN + (time / seconds * width).clamp(0.0, width) as usize);
            let label = text(row, "top_label");
            self.fill(from, top, to.saturating_sub(from), BAR, colour(label));
            if label != before {
                self.fill(from, top, 1, BAR, PAPER);
            }
            before = label;
        }
        // The labels are drawn over the colours.
        before = "";
        for (index, row) in actions.iter().enumerate() {
            let label = text(row, "top_label");
            let alike = actions[index..].iter().take_while(|next| text(next, "top_label") == label).count();
            if label != before && alike > 1 {
                let begin = if index == 0 { 0.0 } else { f64::midpoint(middles[index - 1], middles[index]) };
                self.write(MARGIN + 4 + (begin / seconds * width) as usize, top + 15, label, Rgb888::WHITE);
            }
            before = label;
        }
    }

    fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Rgb888) {
        let area = Rectangle::new(Point::new(x as i32, y as i32), Size::new(width as u32, height as u32));
        let Ok(()) = area.into_styled(PrimitiveStyle::with_fill(colour)).draw(self);
    }

    fn write(&mut self, x: usize, y: usize, words: &str, colour: Rgb888) {
        let style = MonoTextStyle::new(&FONT_7X13, colour);
        let Ok(_) = Text::new(words, Point::new(x as i32, y as i32), style).draw(self);
    }

    fn paste(&mut self, picture: &Picture, left: usize, top: usize) {
        for (y, row) in picture.rgb.chunks(picture.width * 3).enumerate() {
            let start = ((top + y) * self.width + left) * 3;
            self.rgb[start..start + row.len()].copy_from_slice(row);
        }
    }

    fn save(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let codec = encoder::find(codec::Id::PNG).ok_or("FFmpeg lacks its PNG encoder")?;
        let mut context = codec::context::Context::new_with_codec(codec).encoder().video()?;
        context.set_width(self.width as u32);
        context.set_height(self.height as u32);
        context.set_format(PixelFormat::RGB24);
        context.set_time_base(Rational(1, 1));
        let mut encoder = context.open()?;
        let mut picture = frame::Video::new(PixelFormat::RGB24, self.width as u32, self.height as u32);
        let stride = picture.stride(0);
        for (row, own) in picture.data_mut(0).chunks_mut(stride).zip(self.rgb.chunks(self.width * 3)) {
            row[..own.len()].copy_from_slice(own);
        }
        encoder.send_frame(&picture)?;
        encoder.send_eof()?;
        let mut packet = Packet::empty();
        encoder.receive_packet(&mut packet)?;
        std::fs::write(path, packet.data().ok_or("no picture was encoded")?)?;
        Ok(())
    }
}

impl OriginDimensions for Sheet {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Sheet {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if (0..self.width as i32).contains(&x) && (0..self.height as i32).contains(&y) {
                let start = (y as usize * self.width + x as usize) * 3;
                self.rgb[start..start + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

/// A thumbnail, scaled into a cell.
struct Picture {
    width: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn decode(thumbnail: &Row) -> Result<Self, Box<dyn Error>> {
        let jpeg: Vec<u8> =
            thumbnail["jpeg"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect();
        let codec = ffmpeg_next::decoder::find(codec::Id::MJPEG).ok_or("FFmpeg lacks its JPEG decoder")?;
        let mut decoder = codec::context::Context::new_with_codec(codec).decoder().open()?.video()?;
        decoder.send_packet(&Packet::copy(&jpeg))?;
        let mut picture = frame::Video::empty();
        decoder.receive_frame(&mut picture)?;
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let scale = (CELL.0 as f64 / width as f64).min(CELL.1 as f64 / height as f64);
        let (to_width, to_height) = ((width as f64 * scale) as usize, (height as f64 * scale) as usize);
        let mut scaler = scaling::Context::get(
            picture.format(),
            width as u32,
            height as u32,
            PixelFormat::RGB24,
            to_width as u32,
            to_height as u32,
            scaling::Flags::AREA,
        )?;
        let mut scaled = frame::Video::empty();
        scaler.run(&picture, &mut scaled)?;
        let stride = scaled.stride(0);
        let rows = scaled.data(0).chunks(stride).take(to_height);
        Ok(Self { width: to_width, rgb: rows.flat_map(|row| &row[..to_width * 3]).copied().collect() })
    }
}

fn text<'r>(row: &'r Row, column: &str) -> &'r str {
    row[column].as_str().unwrap_or("")
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].as_f64().unwrap_or(0.0)
}

/// The name of the video's file.
fn name(row: &Row) -> &str {
    text(row, "uri").rsplit('/').next().unwrap_or("")
}
