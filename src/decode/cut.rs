//! Cuts a part out of a video, in the decoder process: copies its packets, or decodes its frames, draws on them and encodes
//! them. The parent gets the file in parts, each with its place.

mod copy;
mod draw;
mod encode;
mod parts;
mod request;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::format::context::{Input, Output as Muxer, StreamIo};
use ffmpeg_next::{Packet, Stream, format, media};

use super::avio::{Link, RemoteBytes};
use super::output::Output;
use super::protocol::Message;
use super::stop::{Stop, av};
use super::{child, identify};
use crate::error::{VideoError, VideoErrorKind};
pub(super) use parts::PART_BYTES;
use parts::Parts;
pub use request::{Caption, CutInfo, CutRequest, Drawing, DrawnBox};

/// Runs the decoder process on a request to cut.
pub(super) fn serve(request: &CutRequest, bytes: UnixStream, output: Output) -> io::Result<()> {
    let output = Arc::new(Mutex::new(output));
    let (info, error) = match cut(request, bytes, &output) {
        Ok(info) => (Some(info), None),
        Err(Stop::Video(error)) => (None, Some(error)),
        Err(Stop::Parent(error)) => return Err(error),
        Err(Stop::InFull(_)) => return Err(io::ErrorKind::InvalidData.into()),
    };
    output.lock().unwrap_or_else(PoisonError::into_inner).send(&Message::CutEnded { info, error })
}

fn cut(request: &CutRequest, bytes: UnixStream, output: &Arc<Mutex<Output>>) -> Result<CutInfo, Stop> {
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
    let mut source = RemoteBytes::new(Link::new(bytes), request.size_bytes);
    let head = identify::head(&mut source)
        .map_err(|e| VideoError::new(VideoErrorKind::Corrupt, format!("failed to read the file: {e}")))?;
    let mut input = child::open(source, &head)?;
    let stream = child::video_stream(&input)?;
    identify::refuse_encrypted_stream(&input, &stream, &head)?;
    let source = Source::new(request, &input, &stream);
    source.go_to_key_frame(&mut input)?;
    let parts = Parts::new(output.clone());
    match &request.drawing {
        None => copy::run(&mut input, &source, parts),
        Some(drawing) => encode::run(&mut input, &source, drawing, request.threads, parts),
    }
}

/// Seconds before the beginning at which a key frame is looked for.
const LEADS: [f64; 3] = [0.0, 10.0, f64::INFINITY];

/// What is cut.
struct Source {
    video: usize,
    /// The stream of sound that a player would choose.
    audio: Option<usize>,
    /// First and last moment on the container's clock, seconds.
    from: f64,
    to: f64,
    /// The container's clock at the first frame.
    start: f64,
}

/// Moments that differ by less are the same: half of a millisecond, the unit of some containers.
const SLACK: f64 = 0.0005;

impl Source {
    fn new(request: &CutRequest, input: &Input, stream: &Stream<'_>) -> Self {
        let declared = Some(stream.start_time()).filter(|start| *start != ffmpeg_next::ffi::AV_NOPTS_VALUE);
        let declared = declared.map_or(0.0, |start| start as f64 * f64::from(stream.time_base()));
        let start = request.start_seconds.unwrap_or(declared);
        let audio = input.streams().best(media::Type::Audio).map(|stream| stream.index());
        let (from, to) = (start + request.from_seconds, start + request.to_seconds);
        Self { video: stream.index(), audio, from, to, start }
    }

    /// Goes to a key frame before the beginning. Where the container has no index, FFmpeg finds a time, but not a key frame.
    fn go_to_key_frame(&self, input: &mut Input) -> Result<(), VideoError> {
        for lead in LEADS {
            // If this fails, all packets are read up to the beginning.
            let _ = self.seek(input, lead);
            if lead.is_infinite() || self.is_before_a_key_frame(input)? {
                let _ = self.seek(input, lead);
                break;
            }
        }
        Ok(())
    }

    /// Goes to a time so many seconds before the beginning, at most to the first frame.
    fn seek(&self, input: &mut Input, lead: f64) -> Result<(), ffmpeg_next::Error> {
        let at = ((self.from - lead).max(self.start) * f64::from(ffmpeg_next::ffi::AV_TIME_BASE)).floor() as i64;
        input.seek(at, ..at)
    }

    /// Whether the next key frame is not after the beginning.
    fn is_before_a_key_frame(&self, input: &mut Input) -> Result<bool, VideoError> {
        while let Some(packet) = next_packet(input)? {
            if packet.stream() == self.video && packet.is_key() {
                let at = input.stream(self.video).and_then(|stream| seconds(packet.pts().or(packet.dts()), &stream));
                return Ok(at.is_some_and(|at| at <= self.from + SLACK));
            }
        }
        Ok(false)
    }

    fn is_before(&self, seconds: f64) -> bool {
        seconds < self.from - SLACK
    }

    fn is_after(&self, seconds: f64) -> bool {
        seconds >= self.to - SLACK
    }
}

/// Reads the next packet. `None` at the end of the file.
fn next_packet(input: &mut Input) -> Result<Option<Packet>, VideoError> {
    loop {
        let mut packet = Packet::empty();
        match packet.read(input) {
            Ok(()) => {
                identify::refuse_encrypted_packet(&packet)?;
                return Ok(Some(packet));
            }
            Err(ffmpeg_next::Error::Eof) => return Ok(None),
            // The rest may be readable.
            Err(ffmpeg_next::Error::InvalidData | ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
            Err(error) => return Err(av("read the file", error)),
        }
    }
}

/// The time of a packet or frame in seconds, on the container's clock.
fn seconds(timestamp: Option<i64>, stream: &Stream<'_>) -> Option<f64> {
    timestamp.map(|timestamp| timestamp as f64 * f64::from(stream.time_base()))
}

/// A file of this format that the parent gets.
fn muxer(format: &str, parts: Parts) -> Result<Muxer, VideoError> {
    let failed = |error| av("write the clip", error);
    let io = StreamIo::from_write_seek_with_capacity(parts, PART_BYTES).map_err(failed)?;
    format::output_to_stream(io, None, Some(format)).map_err(failed)
}

/// The error if no packet or frame is in the part that was asked for.
fn nothing(source: &Source) -> VideoError {
    let (from, to) = (source.from - source.start, source.to - source.start);
    VideoError::new(VideoErrorKind::Corrupt, format!("the video has no pictures from {from:.3} s to {to:.3} s"))
}
