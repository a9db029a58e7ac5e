//! Decoding of videos into scaled frames.
//!
//! Each video is decoded by a child process of its own, which runs in a sandbox: see [`template`]. This side feeds the
//! child the video's bytes through a [`ByteSource`], receives [`SampledFrame`]s through shared memory, and checks
//! everything that the child says. It never parses a video's bytes itself.
//!
//! Start with [`Decoding::start`] and call [`Decoding::next`] until it returns `None`.

pub mod avio;
mod child;
mod claims;
mod cut;
mod cutting;
mod damage;
mod dialogue;
mod ending;
mod fragments;
mod identify;
mod orientation;
mod output;
mod packets;
mod plan;
mod present;
mod process;
mod protocol;
pub mod sample;
mod sandbox;
pub mod scale;
mod select;
mod send;
mod slot;
mod sparse;
mod stop;
pub mod template;
mod timeline;
mod yuv;

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::error::{VideoError, VideoErrorKind, WorkError};
#[cfg(any(test, fuzzing))]
pub(crate) use claims::fuzz as fuzz_messages;
pub use cut::{Caption, CutInfo, CutRequest, Drawing, DrawnBox};
pub use cutting::{cut, needs_encoding};
pub use orientation::Orientation;
pub use plan::FullDecode;
pub use process::{Decoding, own_program, probe_sandbox};
pub use protocol::{ClipSpec, ImageSpec, Letterbox, Request, StreamInfo, Totals, View};
pub use slot::Slot;
pub use template::Decoders;

/// First argument that makes this binary a decoder process. Only [`Decoders`] passes it.
pub const CHILD_ARGUMENT: &str = "__decode";

/// The bytes of the video that is being decoded. The parent reads them on the child's behalf.
#[async_trait::async_trait]
pub trait ByteSource: Send + Sync {
    /// Reads at most `length` bytes from `offset`. Returns no bytes only at the end of the object.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, WorkError>;

    /// Like [`Self::read_at`], for a reader that jumps: the `length` bytes are needed, in several reads, and those that follow
    /// probably not.
    async fn read_sparsely(&self, offset: u64, length: usize) -> Result<Bytes, WorkError> {
        self.read_at(offset, length).await
    }
}

/// A local file. Reads block.
#[async_trait::async_trait]
impl ByteSource for File {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, WorkError> {
        let mut buffer = vec![0; length];
        let read = FileExt::read_at(self, &mut buffer, offset)
            .map_err(|error| VideoError::new(VideoErrorKind::Unreadable, error.to_string()))?;
        buffer.truncate(read);
        Ok(buffer.into())
    }
}

/// The sampled frames of one segment.
#[derive(Debug)]
pub struct Clip {
    /// The segment's number, from 0.
    pub segment: i64,
    /// Start of the segment, seconds from the first frame: `segment * stride`.
    pub start_seconds: f64,
    /// End of the segment: its start plus the clip length, or the end of the video if that comes first.
    pub end_seconds: f64,
    /// Number of frames presented within the segment.
    pub frames: i64,
    /// Numbers of the sampled frames, in presentation order.
    pub sampled: Vec<i64>,
    /// Width of the clip's frames, pixels.
    pub width: usize,
    /// Height of the clip's frames, pixels.
    pub height: usize,
    /// The clip tensor: see [`Slot::halves`].
    pub slot: Slot,
}

/// One frame for detection.
#[derive(Debug)]
pub struct Image {
    /// The frame's number in presentation order, from 0.
    pub frame: i64,
    /// Seconds from the first frame presented.
    pub time_seconds: f64,
    /// Width of the frame as displayed, pixels.
    pub width: u32,
    /// Height of the frame as displayed, pixels.
    pub height: u32,
    /// The letterboxed image, `[height, width, 3]` bytes.
    pub slot: Slot,
}

/// What decoding a video yields: first `Opened`, then clips and images.
#[derive(Debug)]
pub enum SampledFrame {
    /// The container could be read. Sent again if the first frame's orientation differs from the container's.
    Opened(StreamInfo),
    /// A segment is complete.
    Clip(Clip),
    /// A frame for detection.
    Image(Image),
}

/// Versions of libavcodec and libavformat, as FFmpeg packs them: major, minor and micro in 16, 8 and 8 bits.
pub fn ffmpeg_versions() -> (u32, u32) {
    (ffmpeg_next::codec::version(), ffmpeg_next::format::version())
}
