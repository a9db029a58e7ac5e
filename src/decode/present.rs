//! Puts decoded frames in order and on the timeline, and sends those that the models need to the parent.

use ffmpeg_next::codec::decoder;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Error as AvError, Packet};

use super::damage::Damage;
use super::orientation::{Orientation, Orientations};
use super::output::Output;
use super::protocol::{ClipSpec, Message, Request, SlotKind, StreamInfo, Totals, WHOLE_ASPECT_MAX};
use super::sample::{DetectionSampler, Presented, Reorder, Segment, SegmentSampler, linspace_index};
use super::scale::{Converter, Rgb, clip_frame, letterboxed};
use super::stop::{PIXELS_MAX, Stop, av, too_large};
use super::timeline::{ContainerClock, Stamps, Timeline};
use crate::error::{VideoError, VideoErrorKind};

/// Number of frames held back, so that a decoder's timestamps may be out of order by as many (B-frames packed in AVI).
const REORDER_FRAMES: usize = 4;

/// Decoded frames of open segments are kept unscaled up to this fraction (1/n) of the process's memory. Beyond it they
/// are scaled early.
const HELD_SHARE: u64 = 4;

/// A frame of an open segment: as decoded or, if many are held, already scaled (`[3, height, width]`).
enum Held {
    Decoded(Frame, Orientation),
    Scaled(Vec<f32>),
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Self::Decoded(frame, _) => (0..frame.planes()).map(|plane| frame.data(plane).len()).sum(),
            Self::Scaled(_) => 0,
        }
    }
}

/// Puts frames in presentation order, assigns their times, and sends those that the models need.
pub(super) struct Presenter<'a> {
    request: &'a Request,
    output: &'a mut Output,
    pub(super) totals: &'a mut Totals,
    pub(super) damage: Damage,
    timeline: Timeline,
    tick_seconds: f64,
    reorder: Reorder<Frame>,
    detections: Option<DetectionSampler>,
    segments: Option<SegmentSampler<Held>>,
    /// Width and height of the clips' frames, set by the first frame presented.
    clip_size: Option<(usize, usize)>,
    converter: Converter,
    orientations: Orientations,
    /// The stream information that was sent to the parent.
    info: StreamInfo,
}

impl<'a> Presenter<'a> {
    pub(super) fn new(
        request: &'a Request,
        output: &'a mut Output,
        totals: &'a mut Totals,
        clock: ContainerClock,
        info: StreamInfo,
        damage: Damage,
    ) -> Self {
        Self {
            request,
            output,
            totals,
            damage,
            timeline: Timeline::new(clock),
            tick_seconds: clock.tick_seconds,
            reorder: Reorder::new(REORDER_FRAMES),
            detections: request.images.as_ref().map(|spec| DetectionSampler::new(spec.frames_per_second)),
            segments: request.clips.as_ref().map(|spec| SegmentSampler::new(spec.clip_seconds, spec.stride_seconds)),
            clip_size: None,
            converter: Converter::default(),
            orientations: Orientations::new(info.orientation),
            info,
        }
    }

    /// Passes a packet to the decoder and presents every frame that it returns.
    pub(super) fn feed(&mut self, decoder: &mut decoder::Video, mut packet: Packet) -> Result<(), Stop> {
        let stamps = Stamps { pts: packet.pts(), dts: packet.dts(), duration: packet.duration() };
        let (stamps, begins_part) = self.timeline.packet(stamps, packet.is_key());
        packet.set_pts(stamps.pts);
        packet.set_dts(stamps.dts);
        self.damage.packet(decoder, &packet, stamps.at(), begins_part);
        let sent = decoder.send_packet(&packet);
        self.note(sent)?;
        self.receive(decoder)
    }

    fn receive(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        loop {
            let mut frame = Frame::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    let pts = self.timeline.decoded(frame.timestamp());
                    self.damage.frame(&frame, pts);
                    if let Some((pts, frame)) = self.reorder.push(pts, frame) {
                        self.present(pts, frame)?;
                    }
                }
                Err(AvError::Eof | AvError::Other { errno: ffmpeg_next::error::EAGAIN }) => return Ok(()),
                Err(error) => self.note(Err(error))?,
            }
        }
    }

    /// Counts a decoder error as damage. Only lack of memory stops the video.
    fn note(&mut self, result: Result<(), AvError>) -> Result<(), Stop> {
        match result {
            Err(error @ AvError::Other { errno: ffmpeg_next::error::ENOMEM }) => Err(av("decode", error).into()),
            Err(AvError::Eof) | Ok(()) => Ok(()),
            Err(_) => {
                self.damage.refused();
                Ok(())
            }
        }
    }

    fn present(&mut self, pts: i64, frame: Frame) -> Result<(), Stop> {
        let orientation = self.orientations.next(&frame);
        if self.totals.frames_decoded == 0 {
            self.correct(orientation)?;
        }
        if let (None, Some(spec)) = (self.clip_size, &self.request.clips) {
            let stored = (frame.width() as usize, frame.height() as usize);
            self.clip_size = Some(clip_size(spec, orientation.displayed(stored))?);
        }
        let time_seconds = self.timeline.present(pts);
        self.totals.start_seconds.get_or_insert(pts as f64 * self.tick_seconds);
        let number = self.totals.frames_decoded as i64;
        self.totals.frames_decoded += 1;
        self.totals.end_seconds = self.timeline.end_seconds();
        if self.detections.as_mut().is_some_and(|sampler| sampler.takes(time_seconds)) {
            self.send_image(number, time_seconds, &frame, orientation)?;
        }
        let (Some(segments), Some(spec), Some(size)) = (&mut self.segments, &self.request.clips, self.clip_size) else {
            return Ok(());
        };
        let held = Held::Decoded(frame, orientation);
        let held_bytes: usize = segments.held().map(|p| p.frame.bytes()).sum::<usize>() + held.bytes();
        let held = match held {
            Held::Decoded(frame, orientation) if held_bytes as u64 > self.request.memory_bytes / HELD_SHARE => {
                let picture = rgb(&mut self.converter, &frame, orientation)?;
                let mut scaled = vec![0.0; 3 * size.0 * size.1];
                clip_frame(&picture, &ClipSpec { frames: 1, ..spec.clone() }, size, 0, &mut scaled);
                Held::Scaled(scaled)
            }
            held => held,
        };
        let (output, converter) = (&mut *self.output, &mut self.converter);
        segments.push(Presented { number, time_seconds, frame: held }, |s| send_clip(output, converter, spec, size, s))
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

    /// At the end of the stream: presents the frames that are still held back and closes the last segments.
    pub(super) fn finish(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        let sent = decoder.send_eof();
        self.note(sent)?;
        self.receive(decoder)?;
        while let Some((pts, frame)) = self.reorder.pop() {
            self.present(pts, frame)?;
        }
        let (Some(segments), Some(spec), Some(size)) = (&mut self.segments, &self.request.clips, self.clip_size) else {
            return Ok(());
        };
        let (output, converter) = (&mut *self.output, &mut self.converter);
        segments.finish(self.totals.end_seconds, |s| send_clip(output, converter, spec, size, s))
    }

    fn send_image(
        &mut self,
        frame: i64,
        time_seconds: f64,
        decoded: &Frame,
        orientation: Orientation,
    ) -> Result<(), Stop> {
        let Some(spec) = &self.request.images else { return Ok(()) };
        let slot = self.output.slot(SlotKind::Image)?;
        let picture = rgb(&mut self.converter, decoded, orientation)?;
        letterboxed(&picture, spec.size(), self.output.bytes(SlotKind::Image, slot));
        let (width, height) = (picture.width as u32, picture.height as u32);
        Ok(self.output.send(&Message::Image { slot, frame, time_seconds, width, height })?)
    }
}

fn rgb(converter: &mut Converter, frame: &Frame, orientation: Orientation) -> Result<Rgb, VideoError> {
    if u64::from(frame.width()) * u64::from(frame.height()) > PIXELS_MAX {
        return Err(too_large(format!("a frame of {} x {}", frame.width(), frame.height())));
    }
    converter.rgb(frame, orientation).map_err(|error| match error {
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

fn send_clip(
    output: &mut Output,
    converter: &mut Converter,
    spec: &ClipSpec,
    size: (usize, usize),
    segment: Segment<'_, Held>,
) -> Result<(), Stop> {
    let slot = output.slot(SlotKind::Clip)?;
    let n = segment.frames.len();
    let picks: Vec<usize> = (0..spec.frames).map(|i| linspace_index(n, spec.frames, i)).collect();
    let pixels = size.0 * size.1;
    for (i, &pick) in picks.iter().enumerate() {
        let clip = output.floats(slot, spec.bytes(size));
        if i > 0 && picks[i - 1] == pick {
            for c in 0..3 {
                let at = (c * spec.frames + i) * pixels;
                clip.copy_within(at - pixels..at, at);
            }
            continue;
        }
        match &segment.frames[pick].frame {
            Held::Decoded(frame, orientation) => {
                let picture = rgb(converter, frame, *orientation)?;
                clip_frame(&picture, spec, size, i, clip);
            }
            Held::Scaled(scaled) => {
                for c in 0..3 {
                    clip[(c * spec.frames + i) * pixels..][..pixels].copy_from_slice(&scaled[c * pixels..][..pixels]);
                }
            }
        }
    }
    Ok(output.send(&Message::Clip {
        slot,
        width: size.0,
        height: size.1,
        segment: segment.index,
        start_seconds: segment.start_seconds,
        end_seconds: segment.end_seconds,
        frames: n as i64,
        sampled: picks.iter().map(|&pick| segment.frames[pick].number).collect(),
    })?)
}
