//! Encodes a scene with common containers and codecs.

use std::path::Path;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, format, frame};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::{FrameTruth, Result, Scene};

/// Container, codec and format of a clip.
pub(crate) struct Kind {
    pub(crate) extension: &'static str,
    encoder: &'static str,
    size: (usize, usize),
    frame_rate: (i32, i32),
    /// Quarter turns clockwise for display, which a matrix in the file states.
    quarters: usize,
    is_variable: bool,
    pixels: Pixel,
}

/// The base of the other kinds.
const PLAIN: Kind = Kind {
    extension: "mp4",
    encoder: "libx264",
    size: (480, 360),
    frame_rate: (25, 1),
    quarters: 0,
    is_variable: false,
    pixels: Pixel::YUV420P,
};

/// The kinds of clips. An archive with more clips repeats them.
pub(crate) const KINDS: [Kind; 12] = [
    PLAIN,
    Kind { extension: "webm", encoder: "libvpx-vp9", frame_rate: (30, 1), ..PLAIN },
    Kind { extension: "mov", frame_rate: (30, 1), quarters: 1, ..PLAIN },
    Kind { extension: "avi", encoder: "mpeg4", frame_rate: (30_000, 1001), ..PLAIN },
    Kind { extension: "mkv", encoder: "libx265", size: (640, 360), ..PLAIN },
    Kind { extension: "mkv", frame_rate: (30, 1), is_variable: true, ..PLAIN },
    Kind { extension: "ts", encoder: "mpeg2video", frame_rate: (30_000, 1001), ..PLAIN },
    Kind { extension: "mov", frame_rate: (30, 1), quarters: 3, ..PLAIN },
    Kind { extension: "webm", encoder: "libvpx", frame_rate: (20, 1), ..PLAIN },
    Kind { size: (854, 480), frame_rate: (50, 1), ..PLAIN },
    Kind { extension: "mkv", frame_rate: (24_000, 1001), pixels: Pixel::YUV420P10LE, ..PLAIN },
    Kind { extension: "mov", size: (640, 360), quarters: 2, ..PLAIN },
];

/// The kind of clips with crowds.
pub(crate) const CROWD: Kind = Kind { size: (640, 360), ..PLAIN };

impl Kind {
    pub(crate) fn displayed_size(&self) -> (usize, usize) {
        if self.quarters % 2 == 1 { (self.size.1, self.size.0) } else { self.size }
    }

    /// The time base, and the presentation time of each frame in it.
    fn times(&self, seconds: f32, rng: &mut ChaCha8Rng) -> (Rational, Vec<i64>) {
        let frame_rate = Rational(self.frame_rate.0, self.frame_rate.1);
        if !self.is_variable {
            let frames = (seconds * frame_rate.0 as f32 / frame_rate.1 as f32).round() as i64;
            return (frame_rate.invert(), (0..frames).collect());
        }
        let mut times = vec![0];
        while let Some(&last) = times.last()
            && last < (seconds * 1000.0) as i64 - 60
        {
            times.push(last + [33, 33, 34, 42, 50][rng.next_u32() as usize % 5]);
        }
        (Rational(1, 1000), times)
    }

    /// Options of the encoder: one thread and no random identifiers, so that the output is reproducible.
    fn options(&self) -> Dictionary<'static> {
        let mut options = Dictionary::new();
        options.set("threads", "1");
        options.set("flags", "+bitexact");
        for (name, value) in match self.encoder {
            "libx264" => &[("preset", "veryfast"), ("crf", "25"), ("g", "50")][..],
            "libx265" => {
                &[("preset", "superfast"), ("crf", "24"), ("x265-params", "pools=1:frame-threads=1:log-level=error")]
            }
            "libvpx-vp9" => &[("deadline", "realtime"), ("cpu-used", "8"), ("b", "800k")],
            // A negative number, because VP8 adapts the effort to the time that is left if it is positive.
            "libvpx" => &[("deadline", "realtime"), ("cpu-used", "-8"), ("b", "800k")],
            _ => &[("b", "1500k"), ("bf", "1")],
        } {
            options.set(name, value);
        }
        options
    }
}

/// Draws and encodes all frames of the scene, and returns the ground truth of each frame.
pub(crate) fn encode(file: &Path, kind: &Kind, scene: &Scene, rng: &mut ChaCha8Rng) -> Result<Vec<FrameTruth>> {
    let (width, height) = (kind.size.0 as u32, kind.size.1 as u32);
    let (time_base, times) = kind.times(scene.seconds, rng);
    let frame_rate = Rational(kind.frame_rate.0, kind.frame_rate.1);
    let chosen =
        encoder::find_by_name(kind.encoder).ok_or_else(|| format!("FFmpeg lacks the encoder {}", kind.encoder))?;
    let mut output = format::output(file)?;
    let mut context = codec::context::Context::new_with_codec(chosen).encoder().video()?;
    context.set_width(width);
    context.set_height(height);
    context.set_format(kind.pixels);
    context.set_frame_rate(Some(frame_rate));
    context.set_time_base(time_base);
    if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
        context.set_flags(codec::Flags::GLOBAL_HEADER);
    }
    let mut encoder = context.open_with(kind.options())?;
    let mut stream = output.add_stream(chosen)?;
    stream.set_parameters(&encoder);
    stream.set_time_base(time_base);
    stream.set_avg_frame_rate(frame_rate);
    let mut header = Dictionary::new();
    header.set("fflags", "+bitexact");
    output.write_header_with(header)?;

    let mut scaler =
        scaling::Context::get(Pixel::RGB24, width, height, kind.pixels, width, height, scaling::Flags::BILINEAR)?;
    let mut drawn = frame::Video::new(Pixel::RGB24, width, height);
    let mut truth = Vec::new();
    for time in times {
        let time_seconds = time as f64 * f64::from(time_base);
        let (canvas, persons) = scene.draw(time_seconds as f32);
        let canvas = canvas.rotated(kind.quarters);
        let stride = drawn.stride(0);
        for (row, pixels) in drawn.data_mut(0).chunks_mut(stride).zip(canvas.rgb.chunks(canvas.width * 3)) {
            row[..pixels.len()].copy_from_slice(pixels);
        }
        let mut converted = frame::Video::empty();
        scaler.run(&drawn, &mut converted)?;
        converted.set_pts(Some(time));
        encoder.send_frame(&converted)?;
        write_packets(&mut encoder, &mut output)?;
        truth.push(FrameTruth { time_seconds, ..persons });
    }
    encoder.send_eof()?;
    write_packets(&mut encoder, &mut output)?;
    output.write_trailer()?;
    drop(output);
    if kind.quarters > 0 {
        mark_rotated(file, kind)?;
    }
    Ok(truth)
}

/// Writes the packets that the encoder has finished.
fn write_packets(
    encoder: &mut encoder::Video,
    output: &mut format::context::Output,
) -> std::result::Result<(), ffmpeg_next::Error> {
    let time_base = output.stream(0).ok_or(ffmpeg_next::Error::StreamNotFound)?.time_base();
    let mut packet = Packet::empty();
    while encoder.receive_packet(&mut packet).is_ok() {
        packet.set_stream(0);
        packet.set_duration(1);
        packet.rescale_ts(encoder.time_base(), time_base);
        packet.write_interleaved(output)?;
    }
    Ok(())
}

/// Writes the rotation into the track header of a QuickTime file. It does not use the muxer for that, because the API
/// has a different name in each version of FFmpeg.
fn mark_rotated(file: &Path, kind: &Kind) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    // The track header comes after the frames. Its matrix has nine big-endian words, which start 40 bytes after its
    // name.
    let matrix = bytes.windows(4).rposition(|name| name == b"tkhd").ok_or("no track header")? + 44;
    let one = 1 << 16;
    let (width, height) = (kind.size.0 as i32 * one, kind.size.1 as i32 * one);
    let words = match kind.quarters {
        1 => [0, one, 0, -one, 0, 0, height, 0],
        2 => [-one, 0, 0, 0, -one, 0, width, height],
        _ => [0, -one, 0, one, 0, 0, 0, width],
    };
    for (index, word) in words.into_iter().chain([1 << 30]).enumerate() {
        bytes[matrix + 4 * index..][..4].copy_from_slice(&word.to_be_bytes());
    }
    std::fs::write(file, bytes)?;
    Ok(())
}
