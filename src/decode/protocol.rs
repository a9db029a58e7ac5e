//! The messages between parent and child, and the layout of their shared memory.

use half::f16;
use serde::{Deserialize, Serialize};

use super::cut::{CutInfo, CutRequest, PART_BYTES};
use super::orientation::Orientation;
use super::plan::FullDecode;
use super::sample::{DetectionSampler, Samplers, SegmentSampler};
use crate::error::VideoError;

/// Number of clips that the child fills or that wait for a batch.
const CLIP_SLOTS: usize = 2;
/// Number of images that the child fills or that wait for a batch.
const IMAGE_SLOTS: usize = 8;
/// Largest ratio of long to short side of a whole frame. Slots are laid out for that ratio, which costs only address
/// space: shared memory takes up room when it is written, so a video uses only what its own shape needs.
pub(super) const WHOLE_ASPECT_MAX: usize = 4;

/// The shape and sampling of a clip for the action model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipSpec {
    /// Frames of the Fast pathway, T.
    pub frames: usize,
    /// The short side is scaled to this length, pixels.
    pub side: usize,
    /// The part of the scaled frame that the clip shows.
    pub view: View,
    /// Subtracted per channel, from RGB in 0..=1.
    pub mean: [f32; 3],
    /// Divisor per channel, after the subtraction.
    pub std: [f32; 3],
    /// Length of a segment, seconds.
    pub clip_seconds: f64,
    /// Seconds from the start of one segment to the start of the next.
    pub stride_seconds: f64,
}

/// The part of a scaled frame that a clip shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// A square in the centre, of this side in pixels: at most the clip's `side`.
    Centre(usize),
    /// All of it. The length of its long side depends on the video.
    Whole,
    /// All of it, with bars of zeros if it is more elongated than this ratio of long to short side.
    Within(usize),
}

impl ClipSpec {
    /// Width and height of a frame of `width` x `height` after its short side is scaled to `side`. The long side is
    /// rounded down.
    pub fn scaled(&self, width: usize, height: usize) -> (usize, usize) {
        let long = |long: usize, short: usize| (long as f64 / short as f64 * self.side as f64).floor() as usize;
        if width < height { (self.side, long(height, width)) } else { (long(width, height), self.side) }
    }

    /// Width and height of a clip's frames, for a video of `width` x `height`. `None` if whole frames would be too
    /// elongated.
    pub fn size(&self, width: usize, height: usize) -> Option<(usize, usize)> {
        let size = match self.view {
            View::Centre(side) => (side, side),
            View::Whole => self.scaled(width, height),
            View::Within(aspect) => {
                let (width, height) = self.scaled(width, height);
                (width.min(aspect * self.side), height.min(aspect * self.side))
            }
        };
        self.holds(size).then_some(size)
    }

    /// Whether frames of this size fit into a clip's slot.
    pub(super) fn holds(&self, (width, height): (usize, usize)) -> bool {
        match self.view {
            View::Centre(side) => (width, height) == (side, side),
            View::Whole | View::Within(_) => {
                width.min(height) == self.side && width.max(height) <= self.aspect_max() * self.side
            }
        }
    }

    /// Bytes of a clip with frames of this size: `[3, frames, height, width]` halves.
    pub(super) fn bytes(&self, (width, height): (usize, usize)) -> usize {
        3 * self.frames * width * height * size_of::<f16>()
    }

    /// Bytes of the largest clip.
    fn bytes_max(&self) -> usize {
        self.bytes(match self.view {
            View::Centre(side) => (side, side),
            View::Whole | View::Within(_) => (self.aspect_max() * self.side, self.side),
        })
    }

    /// Largest ratio of long to short side.
    fn aspect_max(&self) -> usize {
        match self.view {
            View::Centre(_) => 1,
            View::Whole => WHOLE_ASPECT_MAX,
            View::Within(aspect) => aspect,
        }
    }
}

/// The size and rate of images for the detection model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Width of the letterboxed image, pixels.
    pub width: usize,
    /// Height of the letterboxed image, pixels.
    pub height: usize,
    /// Images per second of video.
    pub frames_per_second: f64,
}

impl ImageSpec {
    /// Width and height of the letterboxed image, pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }
}

/// What the child shall do with one video.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Request {
    /// Size of the object, bytes.
    pub size_bytes: u64,
    /// Clips to produce, if any.
    pub clips: Option<ClipSpec>,
    /// Images to produce, if any.
    pub images: Option<ImageSpec>,
    /// Number of threads that the codec may use.
    pub threads: usize,
    /// Limit of the child's private memory, bytes.
    pub memory_bytes: u64,
    /// Why every frame must be decoded. `None` decodes selectively where that gives the same.
    pub in_full: Option<FullDecode>,
    /// Decode nothing; only try to escape from the sandbox.
    pub probe_sandbox: bool,
}

impl Request {
    /// The samplers of this request, for frames of type `F`.
    pub(super) fn samplers<F>(&self) -> Samplers<F> {
        let (images, clips) = (self.images.as_ref(), self.clips.as_ref());
        Samplers {
            detections: images.map(|spec| DetectionSampler::new(spec.frames_per_second)),
            segments: clips.map(|spec| SegmentSampler::new(spec.clip_seconds, spec.stride_seconds)),
            clip_frames: clips.map_or(0, |spec| spec.frames),
        }
    }
}

/// Position of a picture in a letterboxed image, as YOLOv5's `letterbox` places it (scaling up allowed, no stride
/// rounding).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Scale from the picture to the image.
    pub gain: f64,
    /// Width of the scaled picture, pixels.
    pub width: usize,
    /// Height of the scaled picture, pixels.
    pub height: usize,
    /// Width of the left bar, pixels.
    pub left: usize,
    /// Height of the top bar, pixels.
    pub top: usize,
}

impl Letterbox {
    /// Places a picture in an image. Both sizes are (width, height).
    pub fn new(picture: (usize, usize), image: (usize, usize)) -> Self {
        let gain = (image.0 as f64 / picture.0 as f64).min(image.1 as f64 / picture.1 as f64);
        let scaled = |length: usize, max: usize| ((length as f64 * gain).round_ties_even() as usize).clamp(1, max);
        let (width, height) = (scaled(picture.0, image.0), scaled(picture.1, image.1));
        let bar = |room: usize| (room as f64 / 2.0 - 0.1).round().max(0.0) as usize;
        Self { gain, width, height, left: bar(image.0 - width), top: bar(image.1 - height) }
    }
}

/// What the container says about the video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// FFmpeg's names of the format, comma separated.
    pub container: String,
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Width as displayed (rotated and mirrored), pixels.
    pub width: u32,
    /// Height as displayed, pixels.
    pub height: u32,
    /// How a player rotates and mirrors the first frame.
    pub orientation: Orientation,
    /// Average frame rate, if known.
    pub frames_per_second: Option<f64>,
    /// Duration as the container declares it, if it does.
    pub duration_seconds: Option<f64>,
}

/// What a child reports at the end of a video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of frames that the decoder returned.
    pub frames_decoded: u64,
    /// Number of frames of the video. In full decoding, each of them was decoded.
    pub frames_presented: u64,
    /// Why every frame was decoded. `None` after selective decoding.
    pub in_full: Option<FullDecode>,
    /// End of the last frame's presentation, seconds from the start of the first frame's.
    pub end_seconds: f64,
    /// Number of damaged packets and frames.
    pub damaged: u64,
    /// Presentation time of the first frame on the container's clock, seconds.
    pub start_seconds: Option<f64>,
    /// Seconds spent on demuxing, decoding and scaling, without waiting for bytes or slots.
    pub decode_seconds: f64,
    /// Seconds spent waiting for bytes.
    pub fetch_seconds: f64,
    /// Seconds spent waiting for a slot because inference was behind.
    pub blocked_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SlotKind {
    Clip = 0,
    Image = 1,
}

/// Messages from parent to child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToDecoder {
    /// `cpu_seconds` limits the time of all processors together.
    Decode {
        request: Request,
        cpu_seconds: u64,
    },
    Cut {
        request: CutRequest,
        cpu_seconds: u64,
    },
    Free {
        kind: SlotKind,
        slot: usize,
    },
}

/// Messages from child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    NotSandboxed {
        reason: String,
    },
    SandboxProbed {
        escapes: Vec<String>,
        missing: Vec<String>,
    },
    Opened(StreamInfo),
    Clip {
        slot: usize,
        width: usize,
        height: usize,
        segment: i64,
        start_seconds: f64,
        end_seconds: f64,
        frames: i64,
        sampled: Vec<i64>,
    },
    Image {
        slot: usize,
        frame: i64,
        time_seconds: f64,
        width: u32,
        height: u32,
    },
    Ended {
        totals: Totals,
        error: Option<VideoError>,
    },
    /// Selective decoding cannot go on: what was sent may differ from full decoding.
    NeedsFull {
        reason: FullDecode,
    },
    /// Bytes of the clip's file, at an offset of it.
    Part {
        slot: usize,
        offset: u64,
        bytes: usize,
    },
    CutEnded {
        info: Option<CutInfo>,
        error: Option<VideoError>,
    },
}

/// Positions of the slots in shared memory: clips first, each slot on a page boundary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    clip_bytes: usize,
    image_bytes: usize,
}

impl Layout {
    pub(super) const PAGE: usize = 4096;

    pub(super) fn of(request: &Request) -> Self {
        let clip = request.clips.as_ref().map_or(0, ClipSpec::bytes_max);
        let image = request.images.as_ref().map_or(0, |spec| 3 * spec.width * spec.height);
        Self { clip_bytes: clip, image_bytes: image }
    }

    /// For parts of a clip's file, in the slots of images.
    pub(super) fn of_parts() -> Self {
        Self { clip_bytes: 0, image_bytes: PART_BYTES }
    }

    pub(super) fn slot_bytes(&self, kind: SlotKind) -> usize {
        match kind {
            SlotKind::Clip => self.clip_bytes,
            SlotKind::Image => self.image_bytes,
        }
    }

    pub(super) fn slots(&self, kind: SlotKind) -> usize {
        match (kind, self.slot_bytes(kind)) {
            (_, 0) => 0,
            (SlotKind::Clip, _) => CLIP_SLOTS,
            (SlotKind::Image, _) => IMAGE_SLOTS,
        }
    }

    fn stride(&self, kind: SlotKind) -> usize {
        self.slot_bytes(kind).next_multiple_of(Self::PAGE)
    }

    pub(super) fn bytes(&self) -> usize {
        let all = |kind| self.slots(kind) * self.stride(kind);
        (all(SlotKind::Clip) + all(SlotKind::Image)).max(Self::PAGE)
    }

    pub(super) fn range(&self, kind: SlotKind, slot: usize) -> std::ops::Range<usize> {
        let base = match kind {
            SlotKind::Clip => 0,
            SlotKind::Image => self.slots(SlotKind::Clip) * self.stride(SlotKind::Clip),
        };
        let start = base + slot * self.stride(kind);
        start..start + self.slot_bytes(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_picture_is_letterboxed_as_the_reference_does() {
        let at = Letterbox::new((1280, 720), (640, 640));
        assert_eq!((at.width, at.height, at.left, at.top), (640, 360, 0, 140));
        let at = Letterbox::new((340, 256), (640, 640));
        assert_eq!((at.width, at.height, at.left, at.top), (640, 482, 0, 79));
        let at = Letterbox::new((810, 1080), (640, 640));
        assert_eq!((at.width, at.height, at.left, at.top), (480, 640, 80, 0));
        // A non-square image: either side can be the short one.
        let at = Letterbox::new((1280, 720), (640, 384));
        assert_eq!((at.width, at.height, at.left, at.top), (640, 360, 0, 12));
        let at = Letterbox::new((810, 1080), (640, 384));
        assert_eq!((at.width, at.height, at.left, at.top), (288, 384, 176, 0));
    }

    #[test]
    fn whole_frames_keep_their_shape_up_to_a_limit() {
        let whole = ClipSpec {
            frames: 32,
            side: 256,
            view: View::Whole,
            mean: [0.45; 3],
            std: [0.225; 3],
            clip_seconds: 1.0,
            stride_seconds: 1.0,
        };
        assert_eq!(whole.size(340, 256), Some((340, 256)));
        assert_eq!(whole.size(1920, 1080), Some((455, 256)));
        assert_eq!(whole.size(1080, 1920), Some((256, 455)));
        assert_eq!(whole.size(4000, 1000), Some((1024, 256)));
        assert_eq!(whole.size(4100, 1000), None);
        let cropped = ClipSpec { view: View::Centre(224), ..whole };
        assert_eq!(cropped.size(4100, 1000), Some((224, 224)));
    }

    #[test]
    fn slots_do_not_overlap() {
        let request = Request {
            clips: Some(ClipSpec {
                frames: 3,
                side: 10,
                view: View::Centre(10),
                mean: [0.0; 3],
                std: [1.0; 3],
                clip_seconds: 1.0,
                stride_seconds: 1.0,
            }),
            images: Some(ImageSpec { width: 33, height: 35, frames_per_second: 1.0 }),
            ..Default::default()
        };
        let layout = Layout::of(&request);
        let mut end = 0;
        for kind in [SlotKind::Clip, SlotKind::Image] {
            for slot in 0..layout.slots(kind) {
                let range = layout.range(kind, slot);
                assert!(range.start >= end && range.start.is_multiple_of(Layout::PAGE));
                end = range.end;
            }
        }
        assert!(end <= layout.bytes());
    }
}
