//! Detects missing pictures at a file's end, by comparing what the container declares with the packets that were read.
//!
//! | container | what declares the length | what shows that the file is truncated |
//! |---|---|---|
//! | MP4 | its sample table: reading a missing sample fails | - |
//! | fragmented MP4 | the duration in the header or the index, if there is one | the last fragment's header is incomplete |
//! | Matroska, WebM | the track's `DURATION` tag, which some tools write before the pictures | the last element is incomplete |
//! | AVI | the number of frames in the header | - |
//! | MPEG-TS | nothing | the last packet is incomplete and belongs to the video stream |
//! | MPEG-PS | nothing | - |
//! | others (FLV, ASF, ...) | the duration of all streams together | - |
//!
//! In all of them, an incomplete last packet is counted as damage.

use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, Stream, ffi};

/// The kinds of container, by how they declare where the pictures end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Container {
    Mp4,
    Mp4Fragments,
    Matroska,
    Avi,
    Broadcast,
    Other,
}

/// The length that a file declares, and how far its packets reach.
#[derive(Debug)]
pub(super) struct Ending {
    container: Container,
    promised_seconds: Option<f64>,
    frame_seconds: f64,
    first_seconds: f64,
    end_seconds: f64,
    /// Offset of the last packet in the file.
    last_at: u64,
}

impl Ending {
    /// Reads what the file declares about this stream. `frame_seconds` is the average duration of a frame.
    pub(super) fn new(input: &Input, stream: &Stream<'_>, frame_seconds: f64) -> Self {
        let container = match input.format().name() {
            name if name.contains("mp4") && stream.frames() > 0 => Container::Mp4,
            name if name.contains("mp4") => Container::Mp4Fragments,
            name if name.contains("matroska") => Container::Matroska,
            "avi" => Container::Avi,
            "mpegts" | "mpeg" => Container::Broadcast,
            _ => Container::Other,
        };
        let promised_seconds = match container {
            Container::Mp4 | Container::Broadcast => None,
            Container::Mp4Fragments => stream_seconds(stream),
            Container::Matroska => {
                let metadata = stream.metadata();
                let tag = metadata.iter().find(|(key, _)| key.starts_with("DURATION"));
                tag.and_then(|(_, value)| tag_seconds(value))
            }
            Container::Avi => Some(stream.frames() as f64 * f64::from(stream.time_base())),
            Container::Other => container_seconds(input),
        };
        Self {
            container,
            promised_seconds: promised_seconds.filter(|seconds| *seconds > 0.0),
            frame_seconds,
            first_seconds: f64::INFINITY,
            end_seconds: 0.0,
            last_at: 0,
        }
    }

    /// Whether the declared length covers all streams together, so that packets of all streams must be read.
    pub(super) fn needs_all_streams(&self) -> bool {
        self.container == Container::Other
    }

    /// Records how far a packet reaches.
    pub(super) fn reach(&mut self, packet: &Packet, tick_seconds: f64) {
        let times = || packet.pts().into_iter().chain(packet.dts());
        if let (Some(first), Some(last)) = (times().min(), times().max()) {
            self.first_seconds = self.first_seconds.min(first as f64 * tick_seconds);
            self.end_seconds = self.end_seconds.max(last.saturating_add(packet.duration()) as f64 * tick_seconds);
        }
        self.last_at = u64::try_from(packet.position()).unwrap_or(self.last_at);
    }

    /// Whether the file is a transport stream that ends inside a packet of this stream. `tail` is the end of the file,
    /// which has `size_bytes`.
    pub(super) fn is_cut_stream(&self, input: &Input, stream: &Stream<'_>, size_bytes: u64, tail: &[u8]) -> bool {
        if input.format().name() != "mpegts" {
            return false;
        }
        let mut packet_bytes = 0;
        // SAFETY: the open input is live, the name is a C string, and this option of the demuxer is an integer.
        let read = unsafe {
            let (input, children) = (input.as_ptr().cast_mut().cast(), ffi::AV_OPT_SEARCH_CHILDREN);
            ffi::av_opt_get_int(input, c"ts_packetsize".as_ptr(), children, &mut packet_bytes)
        };
        let incomplete = size_bytes.saturating_sub(self.last_at).checked_rem(packet_bytes as u64);
        read >= 0 && ends_inside_packet(tail, incomplete.unwrap_or(0) as usize, packet_bytes, stream.id())
    }

    /// Describes what is missing, after all packets were read. Returns `None` if everything declared was there.
    /// `is_cut` tells whether the file ends inside an element.
    pub(super) fn missing(&self, is_cut: bool) -> Option<String> {
        let reached = match self.container {
            // The clocks of fragments can start anywhere; durations do not depend on them.
            Container::Mp4Fragments => self.end_seconds - self.first_seconds.min(self.end_seconds),
            _ => self.end_seconds,
        };
        let cut_off = || "the file is cut off".to_owned();
        let Some(promised) = self.promised_seconds else { return is_cut.then(cut_off) };
        let missing = promised - reached;
        let is_matroska = self.container == Container::Matroska;
        // Matroska's tag includes the time that the last picture stays on screen, which the packets do not. So a short
        // track alone is not an error; it only confirms that a truncated file lacks pictures.
        let is_short = if is_matroska {
            is_cut && missing > 1.5 * self.frame_seconds
        } else {
            missing > (0.05 * promised).max(1.0)
        };
        match is_short {
            true => Some(format!("ends after {reached:.1} s of {promised:.1} s")),
            false => (is_cut && !is_matroska).then(cut_off),
        }
    }
}

/// Whether the last `incomplete` bytes of a transport stream begin a packet of the stream `pid`. Packets of 192 bytes
/// begin with a timestamp of four bytes.
fn ends_inside_packet(tail: &[u8], incomplete: usize, packet_bytes: i64, pid: i32) -> bool {
    let header =
        tail.len().checked_sub(incomplete).and_then(|at| tail[at..].get(if packet_bytes == 192 { 4.. } else { 0.. }));
    matches!(header, Some([0x47, high, low, ..]) if i32::from(high & 0x1f) << 8 | i32::from(*low) == pid)
}

/// The stream's own duration as the container declares it. A value of all ones means unknown.
pub(super) fn stream_seconds(stream: &Stream<'_>) -> Option<f64> {
    let known = |ticks: &i64| *ticks > 0 && *ticks != i64::from(u32::MAX);
    Some(stream.duration()).filter(known).map(|ticks| ticks as f64 * f64::from(stream.time_base()))
}

/// The duration of the whole file if its header declares it, rather than FFmpeg's estimate.
fn container_seconds(input: &Input) -> Option<f64> {
    // SAFETY: the open input is live; the field is a plain enumeration.
    let method = unsafe { (*input.as_ptr()).duration_estimation_method };
    let is_told = method == ffi::AVDurationEstimationMethod::AVFMT_DURATION_FROM_STREAM;
    Some(input.duration()).filter(|d| is_told && *d > 0).map(|d| d as f64 / f64::from(ffi::AV_TIME_BASE))
}

/// Parses a Matroska `DURATION` tag, such as `00:01:02.500000000`, into seconds.
fn tag_seconds(tag: &str) -> Option<f64> {
    let mut parts = tag.trim().split(':');
    let mut next = || parts.next()?.parse::<f64>().ok().filter(|part| *part >= 0.0 && part.is_finite());
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    parts.next().is_none().then_some(hours * 3600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(container: Container, promised_seconds: Option<f64>, end_seconds: f64) -> Ending {
        Ending { container, promised_seconds, frame_seconds: 0.04, first_seconds: 0.0, end_seconds, last_at: 0 }
    }

    #[test]
    fn what_was_promised_is_missing_beyond_the_slack_of_headers() {
        let missing = |end| ending(Container::Avi, Some(60.0), end).missing(false);
        assert_eq!([missing(60.0), missing(57.5)], [None, None]);
        assert_eq!(missing(50.0).unwrap_or_default(), "ends after 50.0 s of 60.0 s");
        assert_eq!(ending(Container::Broadcast, None, 50.0).missing(false), None);
    }

    #[test]
    fn a_file_that_is_cut_off_lacks_pictures_unless_all_promised_are_there() {
        let missing = |promised, end| ending(Container::Matroska, promised, end).missing(true);
        assert_eq!([missing(Some(60.0), 60.0), missing(Some(60.0), 59.95)], [None, None]);
        assert!(missing(Some(60.0), 59.9).is_some());
        assert_eq!(missing(None, 60.0).unwrap_or_default(), "the file is cut off");
    }

    #[test]
    fn a_whole_matroska_file_whose_last_picture_stands_still_lacks_nothing() {
        assert_eq!(ending(Container::Matroska, Some(60.0), 2.0).missing(false), None);
    }

    #[test]
    fn fragments_are_counted_from_their_first() {
        let late = Ending { first_seconds: 100.0, ..ending(Container::Mp4Fragments, Some(60.0), 130.0) };
        assert_eq!(late.missing(false).unwrap_or_default(), "ends after 30.0 s of 60.0 s");
        let to_the_last = Ending { end_seconds: 160.0, ..late };
        assert_eq!(to_the_last.missing(false), None);
        assert_eq!(to_the_last.missing(true).unwrap_or_default(), "the file is cut off");
    }

    #[test]
    fn a_transport_stream_may_end_inside_a_packet_of_the_pictures() {
        let tail = [0x47, 0x01, 0x00, 0x10, 0xff, 0x47, 0x41, 0x00, 0x31];
        let ends_inside = |incomplete, bytes, pid| ends_inside_packet(&tail, incomplete, bytes, pid);
        assert!(ends_inside(4, 188, 0x100) && ends_inside(8, 192, 0x100));
        assert!(!ends_inside(4, 188, 0x101), "of the sound");
        assert!(!ends_inside(0, 188, 0x100) && !ends_inside(3, 188, 0x100) && !ends_inside(200, 188, 0x100));
    }

    #[test]
    fn a_duration_tag_has_hours_minutes_and_seconds() {
        assert_eq!(tag_seconds("01:02:03.500000000"), Some(3723.5));
        assert_eq!([tag_seconds(""), tag_seconds("3.5"), tag_seconds("0:0:0:0"), tag_seconds("a:b:c")], [None; 4]);
    }
}
