//! Reasons to stop decoding early, and the conversion of FFmpeg's errors to video errors.

use std::io;

use ffmpeg_next::Error as AvError;

use super::plan::FullDecode;
use crate::error::{VideoError, VideoErrorKind};

/// Largest picture that is decoded, pixels: 16384 x 8192 is well beyond 8K.
pub(super) const PIXELS_MAX: u64 = 16384 * 8192;

/// Why decoding stops early.
pub(super) enum Stop {
    Video(VideoError),
    Parent(io::Error),
    /// Selective decoding would not give the same as full decoding.
    InFull(FullDecode),
}

impl From<VideoError> for Stop {
    fn from(error: VideoError) -> Self {
        Self::Video(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Parent(error)
    }
}

impl From<FullDecode> for Stop {
    fn from(reason: FullDecode) -> Self {
        Self::InFull(reason)
    }
}

pub(super) fn av(doing: &str, error: AvError) -> VideoError {
    let kind = match error {
        AvError::Other { errno: ffmpeg_next::error::ENOMEM } => VideoErrorKind::OutOfMemory,
        AvError::DecoderNotFound | AvError::PatchWelcome | AvError::Other { errno: ffmpeg_next::error::ENOSYS } => {
            VideoErrorKind::Unsupported
        }
        _ => VideoErrorKind::Corrupt,
    };
    VideoError::new(kind, format!("failed to {doing}: {error}"))
}

pub(super) fn too_large(message: String) -> VideoError {
    VideoError::new(VideoErrorKind::TooLarge, message)
}
