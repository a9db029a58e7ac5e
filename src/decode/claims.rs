//! What a decoder process claims, checked. The process reads hostile bytes and may be under their control, so nothing else uses
//! a value of its messages before it was checked here.

use std::ops::RangeInclusive;

use super::protocol::{ClipSpec, Request, StreamInfo, Totals};
use super::stop::PIXELS_MAX;
use crate::error::{VideoError, VideoErrorKind};

/// The container's description is sent before the first frame: once, and again if that frame is displayed differently.
const OPENED_MAX: u32 = 2;
/// FFmpeg's longest name of a container has 60 characters.
const NAME_CHARS_MAX: usize = 200;
/// Characters of a message that are kept.
const TEXT_CHARS_MAX: usize = 1000;
/// Frames that a file may have beyond one for each of its bytes.
const FRAMES_BEYOND_BYTES: i64 = 1024;
/// Seconds by which times may differ from those that follow from the request.
const SLACK_SECONDS: f64 = 1e-3;
/// The largest timestamp of a frame, seconds: a 64-bit number of whole ones.
const SECONDS_MAX: f64 = 1e19;
/// The longest video, seconds: a thousand years. What a damaged file declares beyond that is not reported.
pub(super) const DURATION_MAX: f64 = 3.2e10;

/// A claim that cannot be true. The text continues "it sent".
pub(super) type Impossible = &'static str;

/// Checks the messages about one video, in their order.
#[derive(Debug)]
pub(super) struct Claims {
    clips: Option<ClipSpec>,
    has_images: bool,
    in_full: bool,
    /// Every frame takes at least a byte.
    frames_max: i64,
    opened: u32,
    clips_left: i64,
    segment: i64,
    frame: i64,
    time_seconds: f64,
}

impl Claims {
    pub(super) fn new(request: &Request) -> Self {
        let size_bytes = i64::try_from(request.size_bytes).unwrap_or(i64::MAX);
        let frames_max = size_bytes.saturating_add(FRAMES_BEYOND_BYTES);
        // Segments may overlap.
        let of_frame =
            request.clips.as_ref().map_or(0.0, |spec| (spec.clip_seconds / spec.stride_seconds).ceil() + 1.0);
        Self {
            clips: request.clips.clone(),
            has_images: request.images.is_some(),
            in_full: request.in_full.is_some(),
            frames_max,
            opened: 0,
            clips_left: frames_max.saturating_mul(of_frame as i64),
            segment: -1,
            frame: -1,
            time_seconds: 0.0,
        }
    }

    /// Checks what the container says of the video.
    pub(super) fn opened(&mut self, info: &StreamInfo) -> Result<(), Impossible> {
        self.opened += 1;
        let is_name = |name: &str| name.len() <= NAME_CHARS_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
        let is_size = |pixels: u32| i32::try_from(pixels).is_ok();
        let has_frames = self.segment >= 0 || self.frame >= 0;
        match info {
            _ if self.opened > OPENED_MAX || has_frames => Err("a description of the video too late or too often"),
            info if !is_name(&info.container) || !is_name(&info.codec) => Err("a name that is none of FFmpeg's"),
            info if !is_size(info.width) || !is_size(info.height) => Err("an impossible size of the video"),
            info if info.orientation.rotation >= 360 => Err("an impossible rotation"),
            info if !info.frames_per_second.is_none_or(|rate| rate.is_finite() && rate > 0.0) => {
                Err("an impossible frame rate")
            }
            info if !info.duration_seconds.is_none_or(|seconds| (0.0..=DURATION_MAX).contains(&seconds)) => {
                Err("an impossible duration")
            }
            _ => Ok(()),
        }
    }

    /// Checks a clip. Returns the number of its bytes.
    pub(super) fn clip(
        &mut self,
        size: (usize, usize),
        segment: i64,
        seconds: RangeInclusive<f64>,
        frames: i64,
        sampled: &[i64],
    ) -> Result<usize, Impossible> {
        let Some(spec) = &self.clips else { return Err("a clip that nobody asked for") };
        let (start, end) = (*seconds.start(), *seconds.end());
        let is_at = |time: f64, place: f64| (time - place).abs() <= SLACK_SECONDS * (1.0 + place.abs());
        if !spec.holds(size) {
            return Err("a clip of the wrong size");
        }
        if self.opened == 0 || self.clips_left == 0 || segment <= self.segment {
            return Err("a clip out of order");
        }
        let longest = start + spec.clip_seconds + SLACK_SECONDS * (1.0 + start.abs());
        if !is_time(start) || !is_at(start, segment as f64 * spec.stride_seconds) || !(start..=longest).contains(&end) {
            return Err("a clip with impossible times");
        }
        let is_frame = |frame: &i64| (0..self.frames_max).contains(frame);
        if !(1..=self.frames_max).contains(&frames)
            || sampled.len() != spec.frames
            || !sampled.iter().all(is_frame)
            || !sampled.is_sorted()
        {
            return Err("a clip of impossible frames");
        }
        self.clips_left -= 1;
        self.segment = segment;
        Ok(spec.bytes(size))
    }

    /// Checks an image.
    pub(super) fn image(
        &mut self,
        frame: i64,
        time_seconds: f64,
        (width, height): (u32, u32),
    ) -> Result<(), Impossible> {
        if !self.has_images {
            return Err("an image that nobody asked for");
        }
        if width == 0 || height == 0 || u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err("an image of an impossible size");
        }
        if self.opened == 0 || !(self.frame + 1..self.frames_max).contains(&frame) {
            return Err("an image out of order");
        }
        if !is_time(time_seconds) || time_seconds < self.time_seconds {
            return Err("an image with an impossible time");
        }
        (self.frame, self.time_seconds) = (frame, time_seconds);
        Ok(())
    }

    /// Checks the end of the video. The error's text is made harmless.
    pub(super) fn ended(&self, totals: &Totals, error: Option<VideoError>) -> Result<Option<VideoError>, Impossible> {
        let seconds = [totals.end_seconds, totals.decode_seconds, totals.fetch_seconds, totals.blocked_seconds];
        let counts = [totals.frames_decoded, totals.frames_presented, totals.damaged];
        let is_count = |count: u64| i64::try_from(count).is_ok();
        if !seconds.into_iter().all(is_time)
            || !totals.start_seconds.is_none_or(|start| start.is_finite() && start.abs() <= SECONDS_MAX)
            || !counts.into_iter().all(is_count)
        {
            return Err("impossible totals");
        }
        error.map(own_error).transpose()
    }

    /// Checks that decoding in full is not asked for while that is done.
    pub(super) fn needs_full(&self) -> Result<(), Impossible> {
        if self.in_full { Err("that it needs what it does") } else { Ok(()) }
    }
}

/// Checks that an error of a video is one that a decoder can know of. Others decide whether the video is tried again, or blame
/// the store.
pub(super) fn own_error(error: VideoError) -> Result<VideoError, Impossible> {
    use VideoErrorKind as Kind;
    match error.kind {
        Kind::Encrypted
        | Kind::NotAVideo
        | Kind::NoVideoStream
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::TooLarge
        | Kind::OutOfMemory => Ok(VideoError { kind: error.kind, message: plain(&error.message) }),
        _ => Err("an error that it cannot know of"),
    }
}

/// One line of bounded length, without control characters, which could command a terminal.
pub(super) fn plain(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut line: String = text.chars().take(TEXT_CHARS_MAX).map(plain).collect();
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

fn is_time(seconds: f64) -> bool {
    (0.0..=SECONDS_MAX).contains(&seconds)
}

/// A request for clips and images, for tests and fuzzing.
#[cfg(any(test, fuzzing))]
fn request() -> Request {
    use super::protocol::{ImageSpec, View};
    let clips = ClipSpec {
        frames: 3,
        side: 8,
        view: View::Centre(8),
        mean: [0.0; 3],
        std: [1.0; 3],
        clip_seconds: 2.0,
        stride_seconds: 1.0,
    };
    let images = ImageSpec { width: 8, height: 8, frames_per_second: 1.0 };
    Request { size_bytes: 100, clips: Some(clips), images: Some(images), ..Request::default() }
}

/// Checks messages of a decoder process, for fuzzing: one on each line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    use super::protocol::Message;
    let mut claims = Claims::new(&request());
    let lines = data.split(|byte| *byte == b'\n');
    for message in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
        match message {
            Message::Opened(info) => _ = claims.opened(&info),
            Message::Clip { width, height, segment, start_seconds, end_seconds, frames, sampled, .. } => {
                _ = claims.clip((width, height), segment, start_seconds..=end_seconds, frames, &sampled);
            }
            Message::Image { frame, time_seconds, width, height, .. } => {
                _ = claims.image(frame, time_seconds, (width, height));
            }
            Message::Ended { totals, error } => _ = claims.ended(&totals, error),
            _ => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::decode::plan::FullDecode;

    fn info() -> StreamInfo {
        StreamInfo {
            container: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
            codec: "h264".to_owned(),
            width: 64,
            height: 48,
            orientation: Default::default(),
            frames_per_second: Some(25.0),
            duration_seconds: Some(4.0),
        }
    }

    fn opened() -> Claims {
        let mut claims = Claims::new(&request());
        claims.opened(&info()).unwrap();
        claims
    }

    #[test]
    fn a_video_as_it_should_be_passes() {
        let mut claims = opened();
        claims.opened(&StreamInfo { width: 48, height: 64, ..info() }).unwrap();
        assert_eq!(claims.clip((8, 8), 0, 0.0..=2.0, 50, &[0, 24, 49]), Ok(3 * 3 * 8 * 8 * 2));
        claims.image(0, 0.0, (48, 64)).unwrap();
        claims.image(25, 1.0, (48, 64)).unwrap();
        claims.clip((8, 8), 1, 1.0..=2.5, 30, &[25, 40, 54]).unwrap();
        claims.clip((8, 8), 4, 4.0..=4.0, 1, &[99, 99, 99]).unwrap();
        assert_eq!(claims.ended(&Totals::default(), None), Ok(None));
        claims.needs_full().unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let wrong = [
            StreamInfo { container: "\u{1b}[2J".to_owned(), ..info() },
            StreamInfo { codec: "x".repeat(201), ..info() },
            StreamInfo { width: u32::MAX, ..info() },
            StreamInfo { frames_per_second: Some(f64::NAN), ..info() },
            StreamInfo { frames_per_second: Some(0.0), ..info() },
            StreamInfo { duration_seconds: Some(f64::INFINITY), ..info() },
            StreamInfo { duration_seconds: Some(-1.0), ..info() },
        ];
        for info in wrong {
            assert!(Claims::new(&request()).opened(&info).is_err(), "{info:?}");
        }
        let sampled = [0, 1, 2];
        assert!(Claims::new(&request()).clip((8, 8), 0, 0.0..=2.0, 3, &sampled).is_err(), "before it is opened");
        assert!(opened().clip((8, 9), 0, 0.0..=2.0, 3, &sampled).is_err());
        assert!(opened().clip((8, 8), -1, -1.0..=1.0, 3, &sampled).is_err());
        assert!(opened().clip((8, 8), 1, 0.0..=2.0, 3, &sampled).is_err(), "a segment at another time");
        assert!(opened().clip((8, 8), 0, 0.0..=3.0, 3, &sampled).is_err(), "too long");
        assert!(opened().clip((8, 8), 0, 0.0..=f64::NAN, 3, &sampled).is_err());
        assert!(opened().clip((8, 8), 0, 0.0..=2.0, 0, &sampled).is_err());
        assert!(opened().clip((8, 8), 0, 0.0..=2.0, 3, &[0, 1]).is_err());
        assert!(opened().clip((8, 8), 0, 0.0..=2.0, 3, &[2, 1, 0]).is_err());
        assert!(opened().clip((8, 8), 0, 0.0..=2.0, 3, &[0, 1, 100 + FRAMES_BEYOND_BYTES]).is_err());
        assert!(Claims::new(&request()).image(0, 0.0, (1, 1)).is_err(), "before it is opened");
        assert!(opened().image(-1, 0.0, (1, 1)).is_err());
        assert!(opened().image(0, f64::NAN, (1, 1)).is_err());
        assert!(opened().image(0, -0.1, (1, 1)).is_err());
        assert!(opened().image(0, 0.0, (0, 1)).is_err());
        assert!(opened().image(0, 0.0, (u32::MAX, u32::MAX)).is_err());
        let mut claims = opened();
        claims.image(3, 1.0, (1, 1)).unwrap();
        assert!(claims.image(3, 2.0, (1, 1)).is_err() && claims.image(4, 0.5, (1, 1)).is_err());
        assert!(claims.opened(&info()).is_err(), "after a frame");
        let only_images = Request { clips: None, ..request() };
        assert!(Claims::new(&only_images).clip((8, 8), 0, 0.0..=2.0, 3, &sampled).is_err());
        assert!(Claims::new(&Request { in_full: Some(FullDecode::Damage), ..request() }).needs_full().is_err());
        for totals in [
            Totals { decode_seconds: f64::INFINITY, ..Totals::default() },
            Totals { end_seconds: -1.0, ..Totals::default() },
            Totals { start_seconds: Some(f64::NAN), ..Totals::default() },
            Totals { frames_decoded: u64::MAX, ..Totals::default() },
        ] {
            assert!(opened().ended(&totals, None).is_err(), "{totals:?}");
        }
        for kind in [VideoErrorKind::AccessDenied, VideoErrorKind::NotFound, VideoErrorKind::Timeout] {
            assert!(opened().ended(&Totals::default(), Some(VideoError::new(kind, "no"))).is_err(), "{kind}");
        }
    }

    #[test]
    fn the_number_of_frames_is_bounded_by_the_bytes_of_the_file() {
        let mut claims = opened();
        let images = (0..i64::MAX).take_while(|frame| claims.image(*frame, *frame as f64, (1, 1)).is_ok()).count();
        assert_eq!(images, 100 + FRAMES_BEYOND_BYTES as usize);
        let mut claims = opened();
        let clip = |n: i64| claims.clip((8, 8), n, n as f64..=n as f64, 1, &[0, 0, 0]).is_ok();
        assert_eq!(
            (0..i64::MAX).map(clip).take_while(|passed| *passed).count(),
            3 * (100 + FRAMES_BEYOND_BYTES as usize)
        );
    }

    #[test]
    fn text_is_one_harmless_line() {
        assert_eq!(plain("moov atom not found"), "moov atom not found");
        assert_eq!(plain("a\u{1b}[31m\r\nb\u{7}"), "a [31m  b ");
        assert_eq!(plain(&"é".repeat(5000)).chars().count(), TEXT_CHARS_MAX + 1);
    }
}
