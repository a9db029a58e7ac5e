//! Decodes the frames of the part, draws on them, and encodes them as H.264 in MP4. Sound is copied.

use ffmpeg_next::codec::decoder;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::context::{Input, Output as Muxer};
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::{Context as Scaler, Flags};
use ffmpeg_next::{Codec, Dictionary, Error as AvError, Packet, Rational, codec, encoder, ffi, picture};

use super::draw::Canvas;
use super::parts::Parts;
use super::{CutInfo, Drawing, Source, muxer, next_packet, nothing, seconds};
use crate::decode::child;
use crate::decode::orientation::Orientations;
use crate::decode::scale::Converter;
use crate::decode::stop::{PIXELS_MAX, Stop, av, too_large};
use crate::error::VideoError;

/// Units of the clip's clock in a second.
const CLOCK: i32 = 90_000;

pub(super) fn run(
    input: &mut Input,
    source: &Source,
    drawing: &Drawing,
    threads: usize,
    parts: Parts,
) -> Result<CutInfo, Stop> {
    let stream = child::video_stream(input)?;
    let mut decoder = child::open_decoder(&stream, threads, false)?;
    let rate = stream.avg_frame_rate();
    let mut clip = Clip {
        source,
        drawing,
        threads,
        rate: if rate.numerator() > 0 && rate.denominator() > 0 { rate } else { Rational(25, 1) },
        tick: f64::from(stream.time_base()),
        orientations: Orientations::new(child::orientation(&stream)),
        converter: Converter::default(),
        muxer: muxer("mp4", parts)?,
        encoding: None,
        sound: Vec::new(),
        first: None,
        last: -1,
        pictures: 0,
    };
    let mut is_over = false;
    while !is_over && let Some(packet) = next_packet(input)? {
        let Some(stream) = input.stream(packet.stream()) else { continue };
        if packet.stream() == source.video {
            match decoder.send_packet(&packet) {
                Ok(()) | Err(AvError::InvalidData | AvError::Eof) => {}
                Err(error) => return Err(av("decode", error).into()),
            }
            is_over = clip.take(&mut decoder, input)?;
        } else if Some(packet.stream()) == source.audio
            && let Some(at) = seconds(packet.pts(), &stream)
            && !source.is_before(at)
            && !source.is_after(at)
        {
            clip.sound.push(packet);
            clip.write_sound(input)?;
        }
    }
    if !is_over {
        decoder.send_eof().or_else(|error| if error == AvError::Eof { Ok(()) } else { Err(av("decode", error)) })?;
        clip.take(&mut decoder, input)?;
    }
    clip.finish(input)
}

/// The clip that is being written.
struct Clip<'a> {
    source: &'a Source,
    drawing: &'a Drawing,
    threads: usize,
    rate: Rational,
    /// Seconds of a unit of the video's clock.
    tick: f64,
    orientations: Orientations,
    converter: Converter,
    muxer: Muxer,
    /// From the first frame on, which says how large the pictures are.
    encoding: Option<Encoding>,
    /// Packets that wait for the first frame.
    sound: Vec<Packet>,
    first: Option<f64>,
    last: i64,
    pictures: u64,
}

struct Encoding {
    encoder: encoder::video::Encoder,
    scaler: Scaler,
    size: (usize, usize),
    /// Number of the stream of sound in the clip.
    sound: Option<usize>,
}

impl Clip<'_> {
    /// Takes the frames that the decoder has. Returns whether the part is over.
    fn take(&mut self, decoder: &mut decoder::Video, input: &Input) -> Result<bool, Stop> {
        loop {
            let mut frame = Frame::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => {}
                Err(AvError::Eof | AvError::Other { errno: ffmpeg_next::error::EAGAIN } | AvError::InvalidData) => {
                    return Ok(false);
                }
                Err(error) => return Err(av("decode", error).into()),
            }
            let Some(at) = frame.timestamp().map(|timestamp| timestamp as f64 * self.tick) else { continue };
            let orientation = self.orientations.next(&frame);
            if self.source.is_after(at) {
                return Ok(true);
            }
            if self.source.is_before(at) {
                continue;
            }
            if u64::from(frame.width()) * u64::from(frame.height()) > PIXELS_MAX {
                return Err(too_large(format!("a frame of {} x {}", frame.width(), frame.height())).into());
            }
            let (width, height, rgb) =
                self.converter.upright(&frame, orientation).map_err(|error| av("convert a frame to RGB", error))?;
            let mut canvas = Canvas { width, height, rgb };
            canvas.draw(self.drawing, at - self.source.start);
            self.encode(&canvas, at, input)?;
        }
    }

    fn encode(&mut self, canvas: &Canvas, at: f64, input: &Input) -> Result<(), Stop> {
        if self.encoding.is_none() {
            self.encoding = Some(self.start(canvas, input)?);
            self.first = Some(at);
        }
        let (Some(encoding), Some(first)) = (&mut self.encoding, self.first) else { return Ok(()) };
        if encoding.size != (canvas.width, canvas.height) {
            let (width, height) = encoding.size;
            return Err(too_large(format!("the pictures are no longer {width} x {height}")).into());
        }
        let mut converted = Frame::empty();
        encoding.scaler.run(&canvas.frame(), &mut converted).map_err(encoding_failed)?;
        // Two frames never have the same time.
        self.last = (((at - first) * f64::from(CLOCK)).round() as i64).max(self.last + 1);
        converted.set_pts(Some(self.last));
        converted.set_kind(picture::Type::None);
        encoding.encoder.send_frame(&converted).map_err(encoding_failed)?;
        self.pictures += 1;
        self.write_pictures()?;
        Ok(self.write_sound(input)?)
    }

    /// Opens the encoder and begins the file.
    fn start(&mut self, canvas: &Canvas, input: &Input) -> Result<Encoding, VideoError> {
        let found = encoder::find_by_name("libx264").or_else(|| encoder::find(codec::Id::MPEG4));
        let codec = found.ok_or(AvError::EncoderNotFound).map_err(encoding_failed)?;
        // The pixels of colour cover two by two.
        let (width, height) = ((canvas.width & !1).max(2) as u32, (canvas.height & !1).max(2) as u32);
        let (full_width, full_height) = (canvas.width as u32, canvas.height as u32);
        let scaler = Scaler::get(Pixel::RGB24, full_width, full_height, Pixel::YUV420P, width, height, Flags::BILINEAR)
            .map_err(encoding_failed)?;
        let mut context = codec::context::Context::new_with_codec(codec).encoder().video().map_err(encoding_failed)?;
        context.set_width(width);
        context.set_height(height);
        context.set_format(Pixel::YUV420P);
        context.set_time_base(Rational(1, CLOCK));
        context.set_frame_rate(Some(self.rate));
        // SAFETY: the context is live and not open yet; the fields are plain numbers. libswscale writes BT.601.
        unsafe {
            (*context.as_mut_ptr()).colorspace = ffi::AVColorSpace::AVCOL_SPC_SMPTE170M;
            (*context.as_mut_ptr()).color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            (*context.as_mut_ptr()).thread_count = self.threads as i32;
        }
        context.set_flags(codec::Flags::GLOBAL_HEADER);
        let encoder = context.open_as_with(codec, options(&codec)).map_err(encoding_failed)?;
        let mut stream = self.muxer.add_stream(codec).map_err(encoding_failed)?;
        stream.set_time_base(Rational(1, CLOCK));
        stream.set_parameters(&encoder);
        let sound = self.add_sound(input)?;
        self.muxer.write_header().map_err(encoding_failed)?;
        Ok(Encoding { encoder, scaler, size: (canvas.width, canvas.height), sound })
    }

    /// Adds the stream of sound, if an MP4 file can hold it.
    fn add_sound(&mut self, input: &Input) -> Result<Option<usize>, VideoError> {
        let Some(stream) = self.source.audio.and_then(|audio| input.stream(audio)) else { return Ok(None) };
        if !super::copy::holds("mp4", stream.parameters().id()) {
            return Ok(None);
        }
        let mut out = self.muxer.add_stream(encoder::find(codec::Id::None)).map_err(encoding_failed)?;
        out.set_parameters(stream.parameters());
        // SAFETY: as in `copy::run`.
        unsafe { (*out.parameters().as_mut_ptr()).codec_tag = 0 };
        Ok(Some(out.index()))
    }

    fn write_pictures(&mut self) -> Result<(), VideoError> {
        let Some(encoding) = &mut self.encoding else { return Ok(()) };
        let mut packet = Packet::empty();
        while encoding.encoder.receive_packet(&mut packet).is_ok() {
            let Some(stream) = self.muxer.stream(0) else { return Ok(()) };
            packet.set_stream(0);
            packet.rescale_ts(Rational(1, CLOCK), stream.time_base());
            packet.write_interleaved(&mut self.muxer).map_err(encoding_failed)?;
        }
        Ok(())
    }

    fn write_sound(&mut self, input: &Input) -> Result<(), VideoError> {
        let (Some(encoding), Some(first)) = (&self.encoding, self.first) else { return Ok(()) };
        let sound = std::mem::take(&mut self.sound);
        let Some(to) = encoding.sound else { return Ok(()) };
        for mut packet in sound {
            let (Some(from), Some(out)) = (input.stream(packet.stream()), self.muxer.stream(to)) else { continue };
            let shift = (first / f64::from(from.time_base())).round() as i64;
            packet.set_pts(packet.pts().map(|pts| pts - shift));
            packet.set_dts(packet.dts().map(|dts| dts - shift));
            if packet.dts().is_none_or(|dts| dts < 0) {
                continue;
            }
            packet.rescale_ts(from.time_base(), out.time_base());
            packet.set_position(-1);
            packet.set_stream(to);
            packet.write_interleaved(&mut self.muxer).map_err(encoding_failed)?;
        }
        Ok(())
    }

    fn finish(mut self, input: &Input) -> Result<CutInfo, Stop> {
        let Some(encoding) = &mut self.encoding else { return Err(nothing(self.source).into()) };
        encoding.encoder.send_eof().map_err(encoding_failed)?;
        self.write_pictures()?;
        self.write_sound(input)?;
        self.muxer.write_trailer().map_err(encoding_failed)?;
        let from_seconds = self.first.unwrap_or(self.source.from) - self.source.start;
        Ok(CutInfo { container: "mp4".to_owned(), from_seconds, pictures: self.pictures })
    }
}

/// Good quality at a low cost of time.
fn options(codec: &Codec) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    match codec.id() {
        codec::Id::H264 => {
            options.set("preset", "veryfast");
            options.set("crf", "20");
        }
        _ => {
            options.set("flags", "+qscale");
            options.set("global_quality", &(4 * ffi::FF_QP2LAMBDA).to_string());
        }
    }
    options
}

fn encoding_failed(error: AvError) -> VideoError {
    av("encode the clip", error)
}
