//! Selective decoding: decodes only the packets that the [planner](super::plan) chooses, and sends the same as full
//! decoding does. If that turns out to be impossible, decoding stops, and the video is decoded in full.

use std::collections::BTreeMap;
use std::sync::Arc;

use ffmpeg_next::codec::{decoder, discard::Discard};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::packet::Ref as _;
use ffmpeg_next::{Error as AvError, Packet, Stream, codec, ffi};

use super::avio::Link;
use super::damage::Damage;
use super::packets::{Codec, Start};
use super::plan::{Decided, FullDecode, PacketInfo, Planned, Planner, Use};
use super::protocol::{Request, Totals};
use super::send::{ClipHeader, Held, Sender};
use super::sparse;
use super::stop::{Stop, av};
use super::timeline::{ContainerClock, Stamps};
use crate::error::{VideoError, VideoErrorKind};

/// The codec of a stream that can be decoded selectively.
///
/// # Errors
/// Why it cannot.
pub(super) fn codec(input: &Input, stream: &Stream<'_>) -> Result<Codec, FullDecode> {
    // Timestamps of these containers belong to packets, not to frames.
    if matches!(input.format().name(), "avi" | "asf") {
        return Err(FullDecode::Timestamps);
    }
    let parameters = stream.parameters();
    // SAFETY: the parameters are live. If `extradata` is not null, it has `extradata_size` bytes.
    let (configuration, field_order) = unsafe {
        let raw = &*parameters.as_ptr();
        let bytes = match raw.extradata.is_null() {
            true => &[],
            false => std::slice::from_raw_parts(raw.extradata, usize::try_from(raw.extradata_size).unwrap_or(0)),
        };
        (bytes, raw.field_order)
    };
    if !matches!(field_order, ffi::AVFieldOrder::AV_FIELD_UNKNOWN | ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE) {
        return Err(FullDecode::Interlaced);
    }
    // SAFETY: descriptors are constants.
    let is_intra = unsafe { ffi::avcodec_descriptor_get(parameters.id().into()).as_ref() }
        .is_some_and(|descriptor| descriptor.props & ffi::AV_CODEC_PROP_INTRA_ONLY != 0);
    match parameters.id() {
        codec::Id::H264 => Ok(Codec::h264(configuration)),
        codec::Id::HEVC => Ok(Codec::hevc(configuration)),
        codec::Id::VP8 => Ok(Codec::Vp8),
        codec::Id::VP9 => Ok(Codec::Vp9),
        codec::Id::AV1 => Ok(Codec::Av1),
        _ if is_intra => Ok(Codec::Intra),
        _ => Err(FullDecode::Codec),
    }
}

/// Decodes what the planner chooses, and sends what it planned.
pub(super) struct Selector<'a> {
    sender: Sender<'a>,
    totals: &'a mut Totals,
    pub(super) damage: Damage,
    codec: Codec,
    planner: Planner<Packet>,
    tick_seconds: f64,
    /// Frames that an output takes or may take, by time.
    held: BTreeMap<i64, Held>,
    held_bytes: usize,
    /// Whether no packet was decoded yet.
    is_first: bool,
    /// If the demuxer does not read the pictures: where their bytes come from, and the offsets of key frames.
    deferred: Option<(Arc<Link>, Vec<u64>)>,
}

impl<'a> Selector<'a> {
    pub(super) fn new(
        request: &Request,
        sender: Sender<'a>,
        totals: &'a mut Totals,
        clock: ContainerClock,
        codec: Codec,
        damage: Damage,
        deferred: Option<(Arc<Link>, Vec<u64>)>,
    ) -> Self {
        Self {
            sender,
            totals,
            damage,
            codec,
            planner: Planner::new(clock, request.samplers()),
            tick_seconds: clock.tick_seconds,
            held: BTreeMap::new(),
            held_bytes: 0,
            is_first: true,
            deferred,
        }
    }

    /// Takes the next packet.
    pub(super) fn feed(&mut self, decoder: &mut decoder::Video, mut packet: Packet) -> Result<(), Stop> {
        let bytes = packet.data().unwrap_or_default();
        // SAFETY: the packet is live; the field is a plain integer.
        let flags = unsafe { (*packet.as_ptr()).flags };
        if packet.is_corrupt() {
            return Err(FullDecode::Damage.into());
        }
        if flags & ffi::AV_PKT_FLAG_DISCARD != 0 || self.codec.is_hidden(bytes) {
            return Err(FullDecode::HiddenFrames.into());
        }
        let stamps = Stamps { pts: packet.pts(), dts: packet.dts(), duration: packet.duration() };
        let is_key = match &self.deferred {
            Some((_, keys)) => keys.binary_search(&(packet.position() as u64)).is_ok(),
            None => packet.is_key(),
        };
        let info = PacketInfo { is_key, is_reference: self.codec.is_reference(bytes), bytes: bytes.len() };
        self.planner.push(stamps, info, |stamps| {
            packet.set_pts(stamps.pts);
            packet.set_dts(stamps.dts);
            packet
        })?;
        self.decode(decoder)
    }

    /// Call it after the last packet.
    pub(super) fn finish(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        self.planner.finish();
        self.decode(decoder)?;
        let sent = decoder.send_eof();
        checked(sent)?;
        self.receive(decoder)?;
        self.send()?;
        self.totals.frames_presented = self.planner.presented;
        self.totals.start_seconds = self.planner.first.map(|pts| pts as f64 * self.tick_seconds);
        self.totals.end_seconds = self.planner.end_seconds();
        match self.planner.planned() {
            Some(_) => Err(FullDecode::MissingFrame.into()),
            None => Ok(()),
        }
    }

    fn decode(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        let decided: Vec<_> = std::iter::from_fn(|| self.planner.next_packet()).collect();
        let runs = match self.deferred {
            Some(_) => sparse::runs(decided.iter().map(|decided| (&decided.packet, decided.used))),
            None => vec![0; decided.len()],
        };
        for (Decided { mut packet, used, after_gap }, run) in decided.into_iter().zip(runs) {
            if used == Use::None {
                continue;
            }
            self.fill(&mut packet, run)?;
            // The first packet follows nothing either.
            if std::mem::take(&mut self.is_first) || after_gap {
                match self.codec.start(packet.data().unwrap_or_default()) {
                    Start::Clean => {}
                    Start::AfterFlush => self.restart(decoder)?,
                    Start::Impossible => return Err(FullDecode::OpenGroups.into()),
                }
            }
            let may_skip = used == Use::Reference && self.codec.skips_non_references();
            decoder.skip_frame(if may_skip { Discard::NonReference } else { Discard::Default });
            self.damage.packet(decoder, &packet, packet.pts(), false);
            let sent = decoder.send_packet(&packet);
            checked(sent)?;
            self.receive(decoder)?;
        }
        self.send()
    }

    /// Reads the bytes of a packet, if the demuxer did not. `run` bytes from its start are needed next.
    fn fill(&self, packet: &mut Packet, run: u64) -> Result<(), Stop> {
        let Some((link, _)) = &self.deferred else { return Ok(()) };
        let (Ok(offset), Some(bytes)) = (u64::try_from(packet.position()), packet.data_mut()) else {
            return Err(FullDecode::Damage.into());
        };
        // If this fails, the parent knows the cause and reports that instead of this error.
        link.read_exactly(offset, bytes, run).map_err(|error| {
            VideoError::new(VideoErrorKind::Corrupt, format!("failed to read the file: {error}")).into()
        })
    }

    /// Takes the frames that the decoder holds back, and makes it forget them.
    fn restart(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        let sent = decoder.send_eof();
        checked(sent)?;
        self.receive(decoder)?;
        decoder.flush();
        Ok(())
    }

    fn receive(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        loop {
            let mut frame = Frame::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => self.take(frame)?,
                Err(AvError::Eof | AvError::Other { errno: ffmpeg_next::error::EAGAIN }) => return Ok(()),
                Err(error) => checked(Err(error))?,
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Stop> {
        let Some(pts) = frame.pts() else { return Err(FullDecode::Timestamps.into()) };
        if frame.is_corrupt() || frame.has_decode_errors() {
            return Err(FullDecode::Damage.into());
        }
        let orientation = self.sender.begin(&frame)?;
        self.totals.frames_decoded += 1;
        if self.sender.is_turned() {
            return Err(FullDecode::Orientation.into());
        }
        if self.planner.wants(pts) {
            let held = self.sender.keep(frame, orientation, self.held_bytes, true)?;
            self.held_bytes += held.bytes();
            self.held.insert(pts, held);
        }
        Ok(())
    }

    /// Sends the outputs whose frames are there, in order.
    fn send(&mut self) -> Result<(), Stop> {
        while self.planner.planned().is_some_and(|next| next.frames().iter().all(|pts| self.held.contains_key(pts))) {
            match self.planner.take_planned() {
                Some(Planned::Image { pts, number, time_seconds }) => {
                    if let Some(held) = self.held.get(&pts) {
                        self.sender.image(number, time_seconds, held)?;
                    }
                }
                Some(Planned::Clip { segment, start_seconds, end_seconds, frames, picks }) => {
                    let header = ClipHeader { segment, start_seconds, end_seconds, frames };
                    let held = &self.held;
                    let picks = picks.iter().filter_map(|(pts, number)| Some((*number, held.get(pts)?)));
                    self.sender.clip(&header, picks)?;
                }
                None => {}
            }
        }
        let (planner, held_bytes) = (&self.planner, &mut self.held_bytes);
        self.held.retain(|pts, held| {
            let is_wanted = planner.wants(*pts);
            if !is_wanted {
                *held_bytes -= held.bytes();
            }
            is_wanted
        });
        Ok(())
    }
}

/// Any error of the decoder means damage, of which only full decoding knows the extent. Lack of memory stops the video.
fn checked(result: Result<(), AvError>) -> Result<(), Stop> {
    match result {
        Ok(()) | Err(AvError::Eof) => Ok(()),
        Err(error @ AvError::Other { errno: ffmpeg_next::error::ENOMEM }) => Err(av("decode", error).into()),
        Err(_) => Err(FullDecode::Damage.into()),
    }
}
