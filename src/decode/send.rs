//! Sends frames to the parent as the models take them: scaled images and clips in shared memory.

use std::panic::resume_unwind;
use std::thread::ScopedJoinHandle;

use ffmpeg_next::Error as AvError;
use ffmpeg_next::frame::Video as Frame;
use half::f16;

use super::orientation::{Orientation, Orientations};
use super::output::Output;
use super::plan::FullDecode;
use super::protocol::{ClipSpec, Message, Request, SlotKind, StreamInfo, WHOLE_ASPECT_MAX};
use super::scale::{Converter, Picture, clip_frame, letterboxed};
use super::stop::{PIXELS_MAX, Stop, av, too_large};
use crate::error::{VideoError, VideoErrorKind};

/// Frames are kept as decoded up to this fraction (1/n) of the process's memory. Beyond it they are scaled early.
const HELD_SHARE: u64 = 4;

/// A frame that is kept until it is sent.
pub(super) enum Held {
    Decoded(Frame, Orientation),
    Scaled(Scaled),
}

/// A frame as the models take it.
pub(super) struct Scaled {
    /// `[3, height, width]` of a clip.
    clip: Option<Vec<f16>>,
    /// The letterboxed image, and the size of the frame.
    image: Option<(Vec<u8>, (u32, u32))>,
}

impl Held {
    /// Bytes of a frame that is kept as decoded.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Decoded(frame, _) => (0..frame.planes()).map(|plane| frame.data(plane).len()).sum(),
            Self::Scaled(_) => 0,
        }
    }
}

/// A segment whose frames are all there.
pub(super) struct ClipHeader {
    pub(super) segment: i64,
    pub(super) start_seconds: f64,
    pub(super) end_seconds: f64,
    /// Number of frames in the segment.
    pub(super) frames: i64,
}

/// Converts frames and sends them.
pub(super) struct Sender<'a> {
    request: &'a Request,
    output: &'a mut Output,
    /// Width and height of the clips' frames, set by the first frame presented.
    clip_size: Option<(usize, usize)>,
    /// One for each thread of the codec, which idle while a clip is converted.
    converters: Vec<Converter>,
    orientations: Orientations,
    /// The stream information that was sent to the parent.
    info: StreamInfo,
    is_first: bool,
}

impl<'a> Sender<'a> {
    pub(super) fn new(request: &'a Request, output: &'a mut Output, info: StreamInfo) -> Self {
        let orientations = Orientations::new(info.orientation);
        let converters = std::iter::repeat_with(Converter::default).take(request.threads.max(1)).collect();
        Self { request, output, clip_size: None, converters, orientations, info, is_first: true }
    }

    /// Takes the next frame in presentation order, before it is sent. Returns its orientation.
    pub(super) fn begin(&mut self, frame: &Frame) -> Result<Orientation, Stop> {
        let orientation = self.orientations.next(frame);
        if std::mem::take(&mut self.is_first) {
            self.correct(orientation)?;
            if let Some(spec) = &self.request.clips {
                let stored = (frame.width() as usize, frame.height() as usize);
                self.clip_size = Some(clip_size(spec, orientation.displayed(stored))?);
            }
        }
        Ok(orientation)
    }

    /// Whether a frame had an orientation other than the stream's.
    pub(super) fn is_turned(&self) -> bool {
        self.orientations.differ()
    }

    /// Informs the parent if the first frame's orientation differs from the container's.
    fn correct(&mut self, orientation: Orientation) -> Result<(), Stop> {
        if orientation != self.info.orientation {
            let stored = self.info.orientation.displayed((self.info.width, self.info.height));
            let (width, height) = orientation.displayed(stored);
            self.output.send(&Message::Opened(StreamInfo { orientation, width, height, ..self.info.clone() }))?;
        }
        Ok(())
    }

    /// Prepares a frame for being kept, next to frames of `kept_bytes`. `for_image` tells whether an image may be made of
    /// it.
    pub(super) fn keep(
        &mut self,
        frame: Frame,
        orientation: Orientation,
        kept_bytes: usize,
        for_image: bool,
    ) -> Result<Held, Stop> {
        let held = Held::Decoded(frame, orientation);
        let is_much = (kept_bytes + held.bytes()) as u64 > self.request.memory_bytes / HELD_SHARE;
        let Held::Decoded(frame, orientation) = &held else { return Ok(held) };
        if !is_much {
            return Ok(held);
        }
        let picture = picture(&mut self.converters[0], frame, *orientation)?;
        let clip = self.request.clips.as_ref().zip(self.clip_size).map(|(spec, size)| {
            let mut scaled = vec![f16::ZERO; 3 * size.0 * size.1];
            clip_frame(&picture, spec, size, planes(&mut scaled));
            scaled
        });
        let image = self.request.images.as_ref().filter(|_| for_image).map(|spec| {
            let mut image = vec![0; 3 * spec.width * spec.height];
            letterboxed(&picture, spec.size(), &mut image);
            (image, displayed_size(&picture))
        });
        Ok(Held::Scaled(Scaled { clip, image }))
    }

    /// Sends an image of a frame.
    pub(super) fn image(&mut self, frame: i64, time_seconds: f64, held: &Held) -> Result<(), Stop> {
        let Some(spec) = &self.request.images else { return Ok(()) };
        let slot = self.output.slot(SlotKind::Image)?;
        let (width, height) = match held {
            Held::Decoded(decoded, orientation) => {
                let picture = picture(&mut self.converters[0], decoded, *orientation)?;
                letterboxed(&picture, spec.size(), self.output.bytes(SlotKind::Image, slot));
                displayed_size(&picture)
            }
            Held::Scaled(Scaled { image: Some((image, size)), .. }) => {
                self.output.bytes(SlotKind::Image, slot).copy_from_slice(image);
                *size
            }
            Held::Scaled(_) => return Err(FullDecode::MissingFrame.into()),
        };
        Ok(self.output.send(&Message::Image { slot, frame, time_seconds, width, height })?)
    }

    /// Sends a clip of these frames: their numbers, and what was kept of them. The same frame may come several times.
    pub(super) fn clip<'f>(
        &mut self,
        clip: &ClipHeader,
        picks: impl Iterator<Item = (i64, &'f Held)>,
    ) -> Result<(), Stop> {
        let (Some(spec), Some(size)) = (&self.request.clips, self.clip_size) else { return Ok(()) };
        let slot = self.output.slot(SlotKind::Clip)?;
        let picks: Vec<_> = picks.take(spec.frames).collect();
        let pixels = size.0 * size.1;
        let tensor = self.output.halves(slot, spec.bytes(size));
        let [red, green, blue] = planes(tensor).map(|channel| channel.chunks_exact_mut(pixels));
        let frames = red.zip(green).zip(blue).map(|((red, green), blue)| [red, green, blue]);
        let is_repeated = |i: usize| i > 0 && picks[i].0 == picks[i - 1].0;
        let mut distinct: Vec<_> = picks.iter().zip(frames).enumerate().filter(|(i, _)| !is_repeated(*i)).collect();
        in_parallel(&mut self.converters, &mut distinct, |converter, (_, ((_, held), planes))| {
            let planes = planes.each_mut().map(|plane| &mut **plane);
            match held {
                Held::Decoded(frame, orientation) => {
                    clip_frame(&picture(converter, frame, *orientation)?, spec, size, planes);
                }
                Held::Scaled(Scaled { clip: Some(scaled), .. }) => {
                    for (plane, scaled) in planes.into_iter().zip(scaled.chunks_exact(pixels)) {
                        plane.copy_from_slice(scaled);
                    }
                }
                Held::Scaled(_) => return Err(FullDecode::MissingFrame.into()),
            }
            Ok(())
        })?;
        for channel in planes(tensor) {
            for i in (0..picks.len()).filter(|i| is_repeated(*i)) {
                channel.copy_within((i - 1) * pixels..i * pixels, i * pixels);
            }
        }
        let sampled = picks.iter().map(|(number, _)| *number).collect();
        Ok(self.output.send(&Message::Clip {
            slot,
            width: size.0,
            height: size.1,
            segment: clip.segment,
            start_seconds: clip.start_seconds,
            end_seconds: clip.end_seconds,
            frames: clip.frames,
            sampled,
        })?)
    }
}

/// The three equal parts of a tensor.
fn planes(tensor: &mut [f16]) -> [&mut [f16]; 3] {
    let (red, rest) = tensor.split_at_mut(tensor.len() / 3);
    let (green, blue) = rest.split_at_mut(rest.len() / 2);
    [red, green, blue]
}

/// Runs `work` on all items, on as many threads as there are states.
fn in_parallel<S: Send, T: Send>(
    states: &mut [S],
    items: &mut [T],
    work: impl Fn(&mut S, &mut T) -> Result<(), Stop> + Sync,
) -> Result<(), Stop> {
    let share = items.len().div_ceil(states.len()).max(1);
    let all = |(state, items): (&mut S, &mut [T])| items.iter_mut().try_for_each(|item| work(state, item));
    let mut shares = states.iter_mut().zip(items.chunks_mut(share));
    let own = shares.next();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares.map(|share| scope.spawn(|| all(share))).collect();
        let own = own.map_or(Ok(()), all);
        let joined = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        others.into_iter().map(joined).fold(own, Result::and)
    })
}

fn displayed_size(picture: &Picture<'_>) -> (u32, u32) {
    let (width, height) = picture.size();
    (width as u32, height as u32)
}

fn picture<'f>(
    converter: &mut Converter,
    frame: &'f Frame,
    orientation: Orientation,
) -> Result<Picture<'f>, VideoError> {
    if u64::from(frame.width()) * u64::from(frame.height()) > PIXELS_MAX {
        return Err(too_large(format!("a frame of {} x {}", frame.width(), frame.height())));
    }
    converter.picture(frame, orientation).map_err(|error| match error {
        AvError::InvalidData => {
            VideoError::new(VideoErrorKind::Unsupported, format!("no conversion from {:?} to RGB", frame.format()))
        }
        error => av("convert a frame to RGB", error),
    })
}

fn clip_size(spec: &ClipSpec, (width, height): (usize, usize)) -> Result<(usize, usize), VideoError> {
    spec.size(width, height).ok_or_else(|| {
        let limit =
            format!("to score whole frames, the long side may be at most {WHOLE_ASPECT_MAX} times the short side");
        too_large(format!("frames of {width} x {height}: {limit}"))
    })
}
