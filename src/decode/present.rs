//! Full decoding: puts all decoded frames in order and on the timeline, and sends those that the models need to the
//! parent.

use ffmpeg_next::codec::decoder;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Error as AvError, Packet};

use super::damage::Damage;
use super::protocol::{Request, Totals};
use super::sample::{Presented, Reorder, Samplers, Segment, SegmentSampler, linspace_index};
use super::send::{ClipHeader, Held, Sender};
use super::stop::{Stop, av};
use super::timeline::{ContainerClock, Stamps, Timeline};

/// Number of frames held back, so that a decoder's timestamps may be out of order by as many (B-frames packed in AVI).
const REORDER_FRAMES: usize = 4;

/// Puts frames in presentation order, assigns their times, and sends those that the models need.
pub(super) struct Presenter<'a> {
    sender: Sender<'a>,
    totals: &'a mut Totals,
    pub(super) damage: Damage,
    timeline: Timeline,
    tick_seconds: f64,
    reorder: Reorder<Frame>,
    samplers: Samplers<Held>,
}

impl<'a> Presenter<'a> {
    pub(super) fn new(
        request: &Request,
        sender: Sender<'a>,
        totals: &'a mut Totals,
        clock: ContainerClock,
        damage: Damage,
    ) -> Self {
        Self {
            sender,
            totals,
            damage,
            timeline: Timeline::new(clock),
            tick_seconds: clock.tick_seconds,
            reorder: Reorder::new(REORDER_FRAMES),
            samplers: request.samplers(),
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
        let orientation = self.sender.begin(&frame)?;
        let time_seconds = self.timeline.present(pts);
        self.totals.start_seconds.get_or_insert(pts as f64 * self.tick_seconds);
        let number = self.totals.frames_decoded as i64;
        self.totals.frames_decoded += 1;
        self.totals.frames_presented += 1;
        self.totals.end_seconds = self.timeline.end_seconds();
        let is_detected = self.samplers.detections.as_mut().is_some_and(|sampler| sampler.takes(time_seconds));
        let kept_bytes = self.samplers.segments.iter().flat_map(SegmentSampler::held).map(|p| p.frame.bytes()).sum();
        let frame = self.sender.keep(frame, orientation, kept_bytes, is_detected)?;
        if is_detected {
            self.sender.image(number, time_seconds, &frame)?;
        }
        let Samplers { segments: Some(segments), clip_frames, .. } = &mut self.samplers else { return Ok(()) };
        let (sender, samples) = (&mut self.sender, *clip_frames);
        segments.push(Presented { number, time_seconds, frame }, |segment| send(sender, samples, &segment))
    }

    /// At the end of the stream: presents the frames that are still held back and closes the last segments.
    pub(super) fn finish(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        let sent = decoder.send_eof();
        self.note(sent)?;
        self.receive(decoder)?;
        while let Some((pts, frame)) = self.reorder.pop() {
            self.present(pts, frame)?;
        }
        let Samplers { segments: Some(segments), clip_frames, .. } = &mut self.samplers else { return Ok(()) };
        let (sender, samples) = (&mut self.sender, *clip_frames);
        segments.finish(self.totals.end_seconds, |segment| send(sender, samples, &segment))
    }
}

fn send(sender: &mut Sender<'_>, samples: usize, segment: &Segment<'_, Held>) -> Result<(), Stop> {
    let count = segment.frames.len();
    let header = ClipHeader {
        segment: segment.index,
        start_seconds: segment.start_seconds,
        end_seconds: segment.end_seconds,
        frames: count as i64,
    };
    let picks = (0..samples).map(|i| &segment.frames[linspace_index(count, samples, i)]);
    sender.clip(&header, picks.map(|pick| (pick.number, &pick.frame)))
}
