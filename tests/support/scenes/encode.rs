//! Encodes a scene in one of the containers and codecs that archives hold.

use std::error::Error;
use std::path::Path;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, format, frame};

use crate::{FrameTruth, SIZE, Scene};

/// How a clip is stored.
pub(crate) struct Kind {
    pub(crate) extension: &'static str,
    pub(crate) encoder: &'static str,
    pub(crate) frame_rate: (i32, i32),
    /// Stored lying on its side, with the matrix that tells a player to turn it upright.
    pub(crate) rotated: bool,
}

impl Kind {
    pub(crate) fn displayed_size(&self) -> (usize, usize) {
        if self.rotated { (SIZE.1, SIZE.0) } else { SIZE }
    }

    /// One thread and no random identifiers, so that the same scene gives the same bytes.
    fn options(&self) -> Dictionary<'static> {
        let mut options = Dictionary::new();
        options.set("threads", "1");
        options.set("flags", "+bitexact");
        for (name, value) in match self.encoder {
            "libx264" => &[("preset", "veryfast"), ("crf", "23"), ("g", "50")][..],
            "libx265" => {
                &[("preset", "superfast"), ("crf", "24"), ("x265-params", "pools=1:frame-threads=1:log-level=error")]
            }
            "libvpx-vp9" => &[("deadline", "realtime"), ("cpu-used", "8"), ("b", "800k")],
            _ => &[("b", "1500k"), ("bf", "1")],
        } {
            options.set(name, value);
        }
        options
    }
}

/// Draws every frame of the scene into the file; the truth of each frame comes back.
pub(crate) fn encode(file: &Path, kind: &Kind, scene: &Scene) -> Result<Vec<FrameTruth>, Box<dyn Error>> {
    let (width, height) = (SIZE.0 as u32, SIZE.1 as u32);
    let frame_rate = Rational(kind.frame_rate.0, kind.frame_rate.1);
    let chosen =
        encoder::find_by_name(kind.encoder).ok_or_else(|| format!("FFmpeg lacks the encoder {}", kind.encoder))?;
    let mut output = format::output(file)?;
    let mut context = codec::context::Context::new_with_codec(chosen).encoder().video()?;
    context.set_width(width);
    context.set_height(height);
    context.set_format(Pixel::YUV420P);
    context.set_frame_rate(Some(frame_rate));
    context.set_time_base(frame_rate.invert());
    if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
        context.set_flags(codec::Flags::GLOBAL_HEADER);
    }
    let mut encoder = context.open_with(kind.options())?;
    let mut stream = output.add_stream(chosen)?;
    stream.set_parameters(&encoder);
    stream.set_time_base(frame_rate.invert());
    stream.set_avg_frame_rate(frame_rate);
    let mut header = Dictionary::new();
    header.set("fflags", "+bitexact");
    output.write_header_with(header)?;

    let mut scaler =
        scaling::Context::get(Pixel::RGB24, width, height, Pixel::YUV420P, width, height, scaling::Flags::BILINEAR)?;
    let mut drawn = frame::Video::new(Pixel::RGB24, width, height);
    let mut truth = Vec::new();
    let frames = (scene.seconds() * kind.frame_rate.0 as f32 / kind.frame_rate.1 as f32).round() as i64;
    for number in 0..frames {
        let time_seconds = number as f64 * f64::from(kind.frame_rate.1) / f64::from(kind.frame_rate.0);
        let (canvas, persons) = scene.draw(time_seconds as f32);
        let canvas = if kind.rotated { canvas.turned() } else { canvas };
        let stride = drawn.stride(0);
        for (row, pixels) in drawn.data_mut(0).chunks_mut(stride).zip(canvas.rgb.chunks(canvas.width * 3)) {
            row[..pixels.len()].copy_from_slice(pixels);
        }
        let mut converted = frame::Video::empty();
        scaler.run(&drawn, &mut converted)?;
        converted.set_pts(Some(number));
        encoder.send_frame(&converted)?;
        write_packets(&mut encoder, &mut output)?;
        truth.push(FrameTruth { time_seconds, persons });
    }
    encoder.send_eof()?;
    write_packets(&mut encoder, &mut output)?;
    output.write_trailer()?;
    drop(output);
    if kind.rotated {
        mark_rotated(file)?;
    }
    Ok(truth)
}

/// Moves what the encoder has ready into the file.
fn write_packets(encoder: &mut encoder::Video, output: &mut format::context::Output) -> Result<(), ffmpeg_next::Error> {
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

/// Writes "turn a quarter clockwise to display" into a QuickTime file's track header. By hand, since the muxer's
/// interface for it has another name in each FFmpeg.
fn mark_rotated(file: &Path) -> Result<(), Box<dyn Error>> {
    let mut bytes = std::fs::read(file)?;
    // The track header comes after the pictures; its matrix is nine big-endian words, 40 bytes after its name.
    let matrix = bytes.windows(4).rposition(|name| name == b"tkhd").ok_or("no track header")? + 44;
    let one = 1 << 16;
    for (index, word) in [0, one, 0, -one, 0, 0, SIZE.1 as i32 * one, 0, 1 << 30].into_iter().enumerate() {
        bytes[matrix + 4 * index..][..4].copy_from_slice(&word.to_be_bytes());
    }
    std::fs::write(file, bytes)?;
    Ok(())
}
