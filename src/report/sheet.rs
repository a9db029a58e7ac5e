//! The contact sheet: an SVG picture of a few videos of an index, with pictures, actions and people over time.
//!
//! Thumbnails are embedded as they are in the index, so nothing is decoded here, and the picture stays sharp when it is
//! enlarged or printed.

use std::collections::HashMap;
use std::fmt::Write;

use super::pack::base64;
use super::read::{Contents, Picture, Segment, Video};
use crate::palette::{self, css};

const WIDTH: f64 = 1280.0;
const MARGIN: f64 = 16.0;
const INNER: f64 = WIDTH - 2.0 * MARGIN;
/// Pictures of one video.
const PICTURES: usize = 6;
const GAP: f64 = 6.0;
const CELL: f64 = (INNER - GAP * (PICTURES as f64 - 1.0)) / PICTURES as f64;
const TITLE: f64 = 24.0;
const CAPTION: f64 = 18.0;
const BAR: f64 = 22.0;
const CROWD: f64 = 26.0;
const AXIS: f64 = 20.0;
const SPACE: f64 = 26.0;
const LEGEND: f64 = 22.0;
/// Width of a letter of the labels, which are drawn with 12 pixels, roughly.
const LETTER: f64 = 6.6;
/// Least distance of two ticks of the time axis.
const TICK_MIN: f64 = 64.0;
const TICKS: [f64; 16] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0];
/// Labels beyond those that have a colour.
const OTHER: [u8; 3] = [187, 187, 187];
/// The frame of boxes without a track: yellow on black can be seen on every picture.
const BOX: [u8; 3] = [240, 228, 66];

const STYLE: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#191c21}\
.t{font-size:15px;font-weight:600}.q{fill:#5c6470}.b{fill:none;stroke-width:2}.u{fill:none;stroke:#000;stroke-width:4}\
.l{stroke:#c9cdd4}.c{fill:#8d94a1}";

/// Draws the videos. None of them failed.
pub(super) fn draw(contents: &Contents) -> String {
    let labels = Labels::of(contents);
    let mut body = String::new();
    let mut top = MARGIN;
    let mut videos: Vec<_> = contents.videos.iter().collect();
    videos.sort_by_key(|video| &video.uri);
    for video in videos {
        top += draw_video(&mut body, top, video, &labels);
    }
    top += draw_legend(&mut body, top, &labels);
    let height = top + MARGIN - SPACE / 2.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\">\
         <style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>{body}</svg>\n"
    )
}

/// The labels. Those that are shown longest have colours.
struct Labels<'a> {
    names: &'a [String],
    ranks: HashMap<u16, usize>,
}

impl<'a> Labels<'a> {
    fn of(contents: &'a Contents) -> Self {
        let mut shown: HashMap<u16, u64> = HashMap::new();
        for segment in contents.videos.iter().flat_map(|video| &video.segments) {
            if let Some((label, _)) = segment.top.first() {
                *shown.entry(*label).or_default() += u64::from(segment.end_ms.saturating_sub(segment.start_ms));
            }
        }
        let mut shown: Vec<_> = shown.into_iter().collect();
        shown.sort_by_key(|(label, time)| (std::cmp::Reverse(*time), *label));
        let ranks = shown.into_iter().take(palette::COLOURS.len()).enumerate();
        Self { names: contents.labels.all(), ranks: ranks.map(|(rank, (label, _))| (label, rank)).collect() }
    }

    fn name(&self, label: u16) -> &str {
        self.names.get(usize::from(label)).map_or("", String::as_str)
    }

    fn colour(&self, label: u16) -> [u8; 3] {
        self.ranks.get(&label).map_or(OTHER, |rank| palette::COLOURS[*rank])
    }
}

/// Returns the height.
fn draw_video(body: &mut String, top: f64, video: &Video, labels: &Labels<'_>) -> f64 {
    let (folder, name) = video.uri.rsplit_once('/').unwrap_or(("", &video.uri));
    let mut facts = vec![clock(video.seconds, 1), format!("{} × {}", video.width, video.height), video.codec.clone()];
    facts.push(format!("{} segments, {} boxes", video.segment_rows, video.box_rows));
    if !video.error_kind.is_empty() {
        facts.push(format!("{}: {}", video.status.as_str(), video.error_kind));
    }
    let facts = facts.join(" · ");
    let mut y = top;
    // Writing to a string cannot fail.
    let _ = write!(
        body,
        "<text x=\"{MARGIN}\" y=\"{:.1}\"><tspan class=\"t\">{}</tspan><tspan class=\"q\" dx=\"10\">{} · {}</tspan></text>",
        y + 14.0,
        escaped(name),
        escaped(&facts),
        escaped(folder)
    );
    y += TITLE;
    let length = video.length();
    let x = |seconds: f64| MARGIN + (seconds / length).clamp(0.0, 1.0) * INNER;

    let pictures = spread(&video.pictures);
    if !pictures.is_empty() {
        let height = pictures.iter().map(|picture| CELL / picture.ratio()).fold(0.0, f64::max).min(CELL);
        for (place, picture) in pictures.iter().enumerate() {
            let left = MARGIN + place as f64 * (CELL + GAP);
            draw_picture(body, [left, y, height], picture, video, labels);
        }
        y += height + CAPTION;
    }
    if !video.segments.is_empty() {
        for block in blocks(&video.segments, length) {
            let (left, right) = (x(block.from), x(block.to));
            let (fill, name) = (labels.colour(block.label), labels.name(block.label));
            let _ = write!(
                body,
                "<g><title>{} {}–{}</title><rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                escaped(name),
                clock(block.from, 1),
                clock(block.to, 1),
                (right - left - 1.0).max(0.5),
                css(fill)
            );
            let letters = ((right - left - 10.0) / LETTER) as usize;
            if letters >= 3 {
                let ink = css(palette::ink(fill));
                let text = shortened(name, letters);
                let _ = write!(
                    body,
                    "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{ink}\">{}</text>",
                    left + 5.0,
                    y + 15.0,
                    escaped(&text)
                );
            }
            body.push_str("</g>");
        }
        y += BAR + 4.0;
    }
    if let Some(most) = video.crowd.iter().max().filter(|most| **most > 0) {
        for (bin, count) in video.crowd.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (left, right) = (x(bin as f64 * video.bin_seconds), x((bin + 1) as f64 * video.bin_seconds));
            let height = f64::from(*count) / f64::from(*most) * (CROWD - 4.0);
            let _ = write!(
                body,
                "<rect class=\"c\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                y + CROWD - height,
                (right - left - 1.0).max(0.5)
            );
        }
        y += CROWD;
    }
    y += draw_axis(body, y, length, &pictures);
    y + SPACE - top
}

/// A picture with its boxes, and a caption with its time and the label of the segment around it.
fn draw_picture(
    body: &mut String,
    [left, top, height]: [f64; 3],
    picture: &Picture,
    video: &Video,
    labels: &Labels<'_>,
) {
    let (width, own) = if CELL / picture.ratio() > height {
        (height * picture.ratio(), height)
    } else {
        (CELL, CELL / picture.ratio())
    };
    let _ = write!(
        body,
        "<image x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{own:.1}\" href=\"data:image/jpeg;base64,{}\"/>",
        base64(&picture.jpeg)
    );
    for found in &picture.boxes {
        let [x1, y1, x2, y2] = found.corners.map(|share| f64::from(share) / 1e4);
        let colour = if found.track == 0 { BOX } else { palette::colour(i64::from(found.track)) };
        let place = format!(
            "x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"",
            left + x1 * width,
            top + y1 * own,
            (x2 - x1).max(0.0) * width,
            (y2 - y1).max(0.0) * own
        );
        let _ = write!(body, "<rect class=\"u\" {place}/><rect class=\"b\" stroke=\"{}\" {place}/>", css(colour));
    }
    let seconds = f64::from(picture.time_ms) / 1e3;
    let _ =
        write!(body, "<text class=\"q\" x=\"{left:.1}\" y=\"{:.1}\">{}</text>", top + height + 13.0, clock(seconds, 1));
    let middle = |segment: &&Segment| (segment.middle() - seconds).abs();
    let nearest = video.segments.iter().min_by(|a, b| middle(a).total_cmp(&middle(b)));
    if let Some((label, score)) = nearest.and_then(|segment| segment.top.first()) {
        let _ = write!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{} {:.2}</text>",
            left + 52.0,
            top + height + 4.5,
            css(labels.colour(*label)),
            left + 65.0,
            top + height + 13.0,
            escaped(&shortened(labels.name(*label), 16)),
            f64::from(*score) / 1e3
        );
    }
}

/// The time axis, with a mark where each picture is. Returns its height.
fn draw_axis(body: &mut String, top: f64, length: f64, pictures: &[&Picture]) -> f64 {
    let scale = INNER / length;
    let step = TICKS.into_iter().find(|tick| tick * scale >= TICK_MIN).unwrap_or(28800.0);
    let _ = write!(
        body,
        "<line class=\"l\" x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{top:.1}\" y2=\"{top:.1}\"/>",
        WIDTH - MARGIN
    );
    let mut tick = 0.0;
    while tick <= length {
        let x = MARGIN + tick * scale;
        let anchor = if tick == 0.0 {
            "start"
        } else if x > WIDTH - MARGIN - 20.0 {
            "end"
        } else {
            "middle"
        };
        let _ = write!(
            body,
            "<line class=\"l\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"/>\
             <text class=\"q\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            top + 4.0,
            top + 16.0,
            clock(tick, usize::from(step < 1.0))
        );
        tick += step;
    }
    for picture in pictures {
        let x = MARGIN + (f64::from(picture.time_ms) / 1e3 * scale).min(INNER);
        let _ = write!(
            body,
            "<path fill=\"#191c21\" d=\"M{x:.1} {top:.1}l-4 -6h8z\"><title>picture at {}</title></path>",
            clock(f64::from(picture.time_ms) / 1e3, 1)
        );
    }
    AXIS
}

/// Which colour is which label. Returns its height.
fn draw_legend(body: &mut String, top: f64, labels: &Labels<'_>) -> f64 {
    let mut own: Vec<_> = labels.ranks.iter().collect();
    own.sort_by_key(|(_, rank)| **rank);
    let mut entries: Vec<_> = own.into_iter().map(|(label, _)| (labels.colour(*label), labels.name(*label))).collect();
    if entries.is_empty() {
        return 0.0;
    }
    entries.push((OTHER, "other labels"));
    let (mut x, mut y) = (MARGIN, top);
    for (colour, label) in entries {
        let width = 30.0 + label.chars().count() as f64 * LETTER;
        if x + width > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + LEGEND);
        }
        let _ = write!(
            body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            css(colour),
            x + 18.0,
            y + 10.5,
            escaped(label)
        );
        x += width + 14.0;
    }
    y + LEGEND - top
}

/// Neighbouring segments with the same best label.
struct Block {
    label: u16,
    from: f64,
    to: f64,
}

/// Segments may overlap: each one counts from the middle between its centre and that of the one before.
fn blocks(segments: &[Segment], length: f64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let Some((label, _)) = segment.top.first() else { continue };
        let between = |other: Option<&Segment>| other.map(|other| f64::midpoint(other.middle(), segment.middle()));
        let start = f64::from(segment.start_ms) / 1e3;
        let end = f64::from(segment.end_ms) / 1e3;
        // Neighbours do not reach across a gap.
        let from = between(at.checked_sub(1).map(|before| &segments[before])).unwrap_or(0.0).max(start);
        let to = between(segments.get(at + 1)).unwrap_or(length).min(end);
        match blocks.last_mut().filter(|last| last.label == *label && from - last.to < 0.1) {
            Some(last) => last.to = to,
            None => blocks.push(Block { label: *label, from, to }),
        }
    }
    blocks
}

/// A few of the pictures, evenly spread.
fn spread(pictures: &[Picture]) -> Vec<&Picture> {
    let shown = pictures.len().min(PICTURES);
    (0..shown).map(|place| &pictures[(2 * place + 1) * pictures.len() / (2 * shown)]).collect()
}

/// 1:02:03, or 2:03.4 with one decimal.
fn clock(seconds: f64, decimals: usize) -> String {
    let unit = 10_u64.pow(decimals as u32);
    let whole = (seconds.max(0.0) * unit as f64).round() as u64;
    let (hours, minutes, rest) =
        (whole / unit / 3600, whole / unit / 60 % 60, (whole % (60 * unit)) as f64 / unit as f64);
    let width = if decimals == 0 { 2 } else { 3 + decimals };
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:0width$.decimals$}")
    } else {
        format!("{minutes}:{rest:0width$.decimals$}")
    }
}

fn shortened(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

/// Text for XML. Control characters, which XML cannot hold, are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start_ms: u32, end_ms: u32, label: u16) -> Segment {
        Segment { start_ms, end_ms, top: vec![(label, 900)] }
    }

    #[test]
    fn neighbours_with_one_label_are_one_block_and_gaps_stay() {
        let segments = [segment(0, 2000, 1), segment(1000, 3000, 1), segment(2000, 4000, 2), segment(9000, 10000, 2)];
        let blocks: Vec<_> =
            blocks(&segments, 10.0).into_iter().map(|block| (block.label, block.from, block.to)).collect();
        assert_eq!(blocks, [(1, 0.0, 2.5), (2, 2.5, 4.0), (2, 9.0, 10.0)]);
    }

    #[test]
    fn times_are_written_as_on_a_clock() {
        assert_eq!(clock(62.04, 1), "1:02.0");
        assert_eq!(clock(59.96, 1), "1:00.0");
        assert_eq!(clock(3723.0, 0), "1:02:03");
    }

    #[test]
    fn names_are_text_whatever_they_contain() {
        let mut video = Video::default();
        video.uri = "/a/<script>&\u{1}\".mp4".to_owned();
        let svg = draw(&Contents { videos: vec![video], ..Contents::default() });
        assert!(svg.contains("&lt;script&gt;&amp;\u{fffd}&quot;.mp4"), "{svg}");
    }

    #[test]
    fn the_longest_labels_have_colours() {
        let segments = (0..9).map(|label| segment(0, 1000 * (u32::from(label) + 1), label)).collect();
        let mut video = Video::default();
        video.segments = segments;
        let contents = Contents { videos: vec![video], ..Contents::default() };
        let labels = Labels::of(&contents);
        assert_eq!([0, 1, 8].map(|label| labels.colour(label)), [OTHER, OTHER, palette::COLOURS[0]]);
    }
}
