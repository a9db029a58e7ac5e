//! Sparse reading of MP4 files: the demuxer gets zeros for the pictures, and the bytes of those that are decoded are read
//! later. Everything else in the file is read as usual.

use std::ops::Range;

use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, Stream, ffi};

use super::packets::Codec;
use super::plan::Use;
use super::protocol::Request;

/// Bytes between two pictures that are read with them, because another request would cost more: those of other streams.
const GAP_BYTES: u64 = 64 * 1024;

/// Bytes of pictures that are requested together.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// Where the pictures of an MP4 file are, of which some may stay unread.
pub(super) struct Samples {
    /// The parts of the file with pictures or other samples, by offset.
    pub(super) parts: Vec<Range<u64>>,
    /// Offsets of the key frames. FFmpeg would look for key frames in bytes that are zeros now.
    pub(super) keys: Vec<u64>,
}

/// `None` if reading everything in order is better, or necessary.
pub(super) fn samples(input: &Input, stream: &Stream<'_>, codec: Codec, request: &Request) -> Option<Samples> {
    // Of other codecs, bytes tell which packets show no frame. Other containers have no index of all packets.
    let is_told = matches!(codec, Codec::H264 { .. } | Codec::Hevc { .. } | Codec::Av1 | Codec::Intra);
    if !is_told || !input.format().name().contains("mp4") || stream.frames() <= 0 {
        return None;
    }
    let (mut parts, mut keys) = (Vec::new(), Vec::new());
    for other in input.streams() {
        for at in 0.. {
            // SAFETY: the stream belongs to the open input. An entry is valid until the demuxer is called again.
            let entry = unsafe { ffi::avformat_index_get_entry(other.as_ptr().cast_mut(), at).as_ref() };
            let Some(entry) = entry else { break };
            let (Ok(from), Ok(size)) = (u64::try_from(entry.pos), u64::try_from(entry.size())) else { continue };
            parts.push(from..from.saturating_add(size));
            if other.index() == stream.index() && entry.flags() & ffi::AVINDEX_KEYFRAME != 0 {
                keys.push(from);
            }
        }
    }
    let seconds = stream.duration() as f64 * f64::from(stream.time_base());
    let pauses = request.images.as_ref().map(|images| 1.0 / images.frames_per_second);
    let pauses =
        pauses.into_iter().chain(request.clips.as_ref().map(|clips| clips.stride_seconds - clips.clip_seconds));
    let pause = pauses.fold(f64::INFINITY, f64::min);
    if pause < 2.0 * seconds / keys.len().max(1) as f64 {
        return None;
    }
    keys.sort_unstable();
    parts.sort_by_key(|part| part.start);
    parts.dedup_by(|next, part| {
        let touches = next.start <= part.end;
        if touches {
            part.end = part.end.max(next.end);
        }
        touches
    });
    Some(Samples { parts, keys })
}

/// For each packet, the number of bytes from its start that are needed next: its own, and those of the used packets behind it
/// in the file.
pub(super) fn runs<'p>(packets: impl DoubleEndedIterator<Item = (&'p Packet, Use)>) -> Vec<u64> {
    let mut next: Option<Range<u64>> = None;
    let mut runs: Vec<u64> = packets
        .rev()
        .map(|(packet, used)| {
            let from = packet.position() as u64;
            let own = from.saturating_add(packet.size() as u64);
            let joins = |next: &Range<u64>| {
                next.start >= own && next.start - own <= GAP_BYTES && next.end - from <= RUN_BYTES_MAX
            };
            let end = next.take().filter(joins).map_or(own, |next| next.end);
            next = (used != Use::None).then_some(from..end);
            end - from
        })
        .collect();
    runs.reverse();
    runs
}
