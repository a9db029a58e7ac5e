//! What is cut, and what is drawn on it.

use serde::{Deserialize, Serialize};

/// The part of a video to cut out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutRequest {
    /// Size of the object, bytes.
    pub size_bytes: u64,
    /// Presentation time of the first frame on the container's clock, if known.
    pub start_seconds: Option<f64>,
    /// Beginning of the part, seconds from the first frame.
    pub from_seconds: f64,
    /// End of the part, seconds from the first frame.
    pub to_seconds: f64,
    /// Decode the frames, draw this on them, and encode them. `None` copies the packets.
    pub drawing: Option<Drawing>,
    /// Number of threads of each codec.
    pub threads: usize,
    /// Limit of the process's private memory, bytes.
    pub memory_bytes: u64,
}

/// What is drawn on frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drawing {
    /// Boxes, by the time at which they appear.
    pub boxes: Vec<DrawnBox>,
    /// Lines of text in the upper left corner.
    pub captions: Vec<Caption>,
}

/// A box that moves from one place to another. Times are seconds from the video's first frame, places are pixels of the frame as
/// displayed: left, top, right, bottom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrawnBox {
    /// When it appears.
    pub from_seconds: f64,
    /// When it vanishes.
    pub to_seconds: f64,
    /// Where it appears.
    pub from: [f32; 4],
    /// Where it vanishes.
    pub to: [f32; 4],
    /// Red, green and blue.
    pub colour: [u8; 3],
    /// The text above it.
    pub text: String,
}

/// A line of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// When it appears, seconds from the video's first frame.
    pub from_seconds: f64,
    /// When it vanishes.
    pub to_seconds: f64,
    /// The text.
    pub text: String,
}

/// What was cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutInfo {
    /// FFmpeg's name of the container: `mp4` or `matroska`.
    pub container: String,
    /// Presentation time of the clip's first frame, seconds from the video's first frame.
    pub from_seconds: f64,
    /// Number of pictures.
    pub pictures: u64,
}
