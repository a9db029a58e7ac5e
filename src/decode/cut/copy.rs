//! Copies packets: fast and without loss, but a clip begins at the key frame before its beginning.

use std::ffi::CString;

use ffmpeg_next::format::context::{Input, Output as Muxer};
use ffmpeg_next::{Packet, Rational, codec, encoder, ffi};

use super::parts::Parts;
use super::{CutInfo, Source, muxer, next_packet, nothing, seconds};
use crate::decode::child;
use crate::decode::orientation::Orientation;
use crate::decode::stop::Stop;
use crate::error::{VideoError, VideoErrorKind};

/// Containers for clips, the most widely played one first.
const CONTAINERS: [&str; 2] = ["mp4", "matroska"];

/// A stream that is copied.
struct Copied {
    from: usize,
    time_base: Rational,
    /// The decoding time of the last packet that was written.
    last: i64,
}

pub(super) fn run(input: &mut Input, source: &Source, parts: Parts) -> Result<CutInfo, Stop> {
    let container = container(input, source)?;
    let mut muxer = muxer(container, parts)?;
    let mut copied = Vec::new();
    for index in [Some(source.video), source.audio].into_iter().flatten() {
        let Some(stream) = input.stream(index) else { continue };
        if !holds(container, stream.parameters().id()) {
            continue;
        }
        let mut out = muxer.add_stream(encoder::find(codec::Id::None)).map_err(failed)?;
        out.set_parameters(stream.parameters());
        // SAFETY: the parameters belong to the stream that was just added; the field is a plain integer. The code of one
        // container means nothing in another one.
        unsafe { (*out.parameters().as_mut_ptr()).codec_tag = 0 };
        copied.push(Copied { from: index, time_base: stream.time_base(), last: i64::MIN });
    }
    muxer.write_header().map_err(failed)?;
    let mut pictures = 0;
    let first = packets(input, source, |packet, first| {
        pictures += u64::from(packet.stream() == source.video);
        write(&mut muxer, &mut copied, packet, first)
    })?;
    muxer.write_trailer().map_err(failed)?;
    Ok(CutInfo { container: container.to_owned(), from_seconds: first - source.start, pictures })
}

/// Passes the packets of the part to `put`, with the time of the first picture, which it also returns.
fn packets(
    input: &mut Input,
    source: &Source,
    mut put: impl FnMut(Packet, f64) -> Result<(), VideoError>,
) -> Result<f64, Stop> {
    // Everything since the last key frame, until the part begins.
    let mut held: Vec<Packet> = Vec::new();
    let mut first = None;
    let mut has_begun = false;
    // The last picture so far. Those that are shown before it follow it, up to a time after the part's end.
    let mut last = f64::NEG_INFINITY;
    while let Some(packet) = next_packet(input)? {
        let Some(stream) = input.stream(packet.stream()) else { continue };
        let (pts, dts) = (seconds(packet.pts(), &stream), seconds(packet.dts(), &stream));
        if packet.stream() != source.video {
            if Some(packet.stream()) == source.audio && first.is_some() && !pts.is_some_and(|pts| source.is_after(pts))
            {
                held.push(packet);
            }
        } else {
            let (Some(pts), Some(dts)) = (pts.or(dts), dts.or(pts)) else { return Err(without_times().into()) };
            if first.is_some() && source.is_after(dts) {
                if dts >= last {
                    break;
                }
                if pts > last {
                    continue;
                }
            }
            last = last.max(pts);
            has_begun |= !source.is_before(pts);
            if packet.is_key() && (first.is_none() || !has_begun || is_at_the_beginning(source, pts, &held)) {
                held.clear();
                first = Some(pts);
            }
            if first.is_some() {
                held.push(packet);
            }
        }
        if has_begun && let Some(first) = first {
            held.drain(..).try_for_each(|packet| put(packet, first))?;
        }
    }
    let first = first.ok_or_else(|| nothing(source))?;
    held.into_iter().try_for_each(|packet| put(packet, first))?;
    Ok(first)
}

/// Whether the part begins with this key frame, so that nothing before it is needed.
fn is_at_the_beginning(source: &Source, pts: f64, held: &[Packet]) -> bool {
    !held.is_empty() && (pts - source.from).abs() < super::SLACK
}

/// Writes a packet. The clip's clock is 0 at the time `first`.
fn write(muxer: &mut Muxer, copied: &mut [Copied], mut packet: Packet, first: f64) -> Result<(), VideoError> {
    let Some(to) = copied.iter().position(|copied| copied.from == packet.stream()) else { return Ok(()) };
    let Some(stream) = muxer.stream(to) else { return Ok(()) };
    let zero = (first / f64::from(copied[to].time_base)).round() as i64;
    packet.set_pts(packet.pts().map(|pts| pts - zero));
    packet.set_dts(packet.dts().map(|dts| dts - zero));
    packet.rescale_ts(copied[to].time_base, stream.time_base());
    // Matroska rounds times to milliseconds and has none for decoding, so those may be equal.
    let dts = packet.dts().or(packet.pts()).unwrap_or(0).max(copied[to].last.saturating_add(1));
    copied[to].last = dts;
    packet.set_dts(Some(dts));
    packet.set_pts(packet.pts().map(|pts| pts.max(dts)));
    packet.set_position(-1);
    packet.set_stream(to);
    packet.write_interleaved(muxer).map_err(failed)
}

/// The container that holds the pictures, and the sound if possible.
fn container(input: &Input, source: &Source) -> Result<&'static str, VideoError> {
    let Some(video) = input.stream(source.video) else { return Err(nothing(source)) };
    if child::orientation(&video) != Orientation::default() {
        return Err(cannot_copy("the video is rotated"));
    }
    let id = video.parameters().id();
    let sound = source.audio.and_then(|audio| input.stream(audio)).map(|audio| audio.parameters().id());
    let all =
        CONTAINERS.into_iter().find(|container| holds(container, id) && sound.is_none_or(|id| holds(container, id)));
    all.or_else(|| CONTAINERS.into_iter().find(|container| holds(container, id)))
        .ok_or_else(|| cannot_copy(&format!("neither MP4 nor Matroska holds {}", id.name())))
}

/// Whether a container's standard has a place for a codec.
pub(super) fn holds(container: &str, id: codec::Id) -> bool {
    let Ok(name) = CString::new(container) else { return false };
    // SAFETY: the name is a C string. The muxer that is returned is static, or null, which `avformat_query_codec` takes.
    unsafe {
        let format = ffi::av_guess_format(name.as_ptr(), std::ptr::null(), std::ptr::null());
        !format.is_null() && ffi::avformat_query_codec(format, id.into(), ffi::FF_COMPLIANCE_NORMAL) == 1
    }
}

fn without_times() -> VideoError {
    cannot_copy("packets have no times")
}

/// The parent encodes the part instead.
fn cannot_copy(reason: &str) -> VideoError {
    VideoError::new(VideoErrorKind::Unsupported, format!("the pictures cannot be copied: {reason}"))
}

fn failed(error: ffmpeg_next::Error) -> VideoError {
    cannot_copy(&error.to_string())
}
