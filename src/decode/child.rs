//! The decoder process: it demuxes, decodes and scales one video, then exits.
//!
//! It is a fork of the template (`decode/template.rs`). It runs in a sandbox (`decode/sandbox.rs`), where it can compute and use
//! its descriptors, and nothing else.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ffmpeg_next::codec::{decoder, packet::side_data, threading};
use ffmpeg_next::format::{self, context::Input, context::StreamIo, stream::Disposition};
use ffmpeg_next::{Dictionary, Error as AvError, Packet, Stream, ffi, media};
use memmap2::MmapMut;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::net::{RecvFlags, recv};

use super::avio::{Link, READ_BYTES, RemoteBytes};
use super::claims::DURATION_MAX;
use super::cut;
use super::damage::Damage;
use super::ending::{Ending, stream_seconds};
use super::identify;
use super::orientation::Orientation;
use super::output::{Output, receive};
use super::plan::FullDecode;
use super::present::Presenter;
use super::protocol::{Layout, Message, Request, SlotKind, StreamInfo, ToDecoder, Totals};
use super::sandbox;
use super::select::{self, Selector};
use super::send::Sender;
use super::sparse;
use super::stop::{PIXELS_MAX, Stop, av, too_large};
use super::timeline::ContainerClock;
use crate::error::{VideoError, VideoErrorKind};

/// Bytes of memory that demuxing may take for each byte of the file: FFmpeg keeps less than 100 bytes for a sample, which has at
/// least one byte.
const DEMUXER_BYTES_MAX: u64 = 256;

/// Number of consecutive unreadable packets after which decoding stops.
const UNREADABLE_IN_A_ROW_MAX: u32 = 1000;

/// Runs the decoder process with the descriptors from its parent: for messages, for the video's bytes and for frames.
pub(super) fn main(control: UnixStream, bytes: UnixStream, frames: File) -> ExitCode {
    match serve(control, bytes, frames) {
        Ok(()) => ExitCode::SUCCESS,
        // The parent is gone or has stopped this video, so there is nobody to report to.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(control: UnixStream, bytes: UnixStream, frames: File) -> io::Result<()> {
    let mut orders = BufReader::new(control.try_clone()?);
    let order = receive(&mut orders)?;
    let (layout, memory_bytes, cpu_seconds) = match &order {
        ToDecoder::Decode { request, cpu_seconds } => (Layout::of(request), request.memory_bytes, *cpu_seconds),
        ToDecoder::Cut { request, cpu_seconds } => (Layout::of_parts(), request.memory_bytes, *cpu_seconds),
        ToDecoder::Free { .. } => return Err(io::ErrorKind::InvalidData.into()),
    };
    // SAFETY: the file is memory shared with the parent and sealed against shrinking. The parent only reads a slot
    // between our message that it is full and its message that it is free.
    let memory = unsafe { MmapMut::map_mut(&frames)? };
    if memory.len() < layout.bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    drop(frames);
    let mut output = Output { control, orders, memory, layout, free: Default::default(), waited_us: 0 };
    for kind in [SlotKind::Clip, SlotKind::Image] {
        output.free[kind as usize] = (0..layout.slots(kind)).collect();
    }
    if let Err(reason) = sandbox::enter(memory_bytes, cpu_seconds) {
        return output.send(&Message::NotSandboxed { reason });
    }
    // The sandbox asks for a signal when the parent ends. It may have ended before.
    if matches!(recv(&output.control, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _))) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    match order {
        ToDecoder::Decode { request, .. } => decode(&request, bytes, output),
        ToDecoder::Cut { request, .. } => cut::serve(&request, bytes, output),
        ToDecoder::Free { .. } => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn decode(request: &Request, bytes: UnixStream, mut output: Output) -> io::Result<()> {
    if request.probe_sandbox {
        return output.send(&Message::SandboxProbed { escapes: escapes(), missing: sandbox::missing() });
    }
    let started = Instant::now();
    let link = Link::new(bytes);
    let source = RemoteBytes::new(link.clone(), request.size_bytes);
    let mut totals = Totals::default();
    let error = match index(request, source, &link, &mut output, &mut totals) {
        Ok(()) => None,
        Err(Stop::Video(error)) => Some(error),
        Err(Stop::Parent(error)) => return Err(error),
        Err(Stop::InFull(reason)) => return output.send(&Message::NeedsFull { reason }),
    };
    totals.fetch_seconds = link.seen.waited_us.load(Ordering::Relaxed) as f64 / 1e6;
    totals.blocked_seconds = output.waited_us as f64 / 1e6;
    let waited = totals.fetch_seconds + totals.blocked_seconds;
    totals.decode_seconds = (started.elapsed().as_secs_f64() - waited).max(0.0);
    output.send(&Message::Ended { totals, error })
}

/// Tries what the sandbox must prevent and returns what succeeded. Empty if the sandbox works.
fn escapes() -> Vec<String> {
    let mut found = Vec::new();
    if File::open("/proc/self/status").is_ok() {
        found.push("opened a file".to_owned());
    }
    if std::net::UdpSocket::bind("127.0.0.1:0").is_ok() {
        found.push("opened a socket".to_owned());
    }
    if std::process::Command::new("/bin/true").status().is_ok() {
        found.push("started a program".to_owned());
    }
    if MmapMut::map_anon(4096).is_ok_and(|memory| memory.make_exec().is_ok()) {
        found.push("made memory executable".to_owned());
    }
    // SAFETY: nothing else uses the new memory.
    let shared = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED) };
    if shared.is_ok() {
        found.push("mapped memory that no limit counts".to_owned());
    }
    if rustix::process::set_parent_process_death_signal(None).is_ok() {
        found.push("prepared to outlive its parent".to_owned());
    }
    if rustix::process::kill_process(rustix::process::Pid::INIT, rustix::process::Signal::CONT).is_ok() {
        found.push("sent a signal".to_owned());
    }
    if std::thread::spawn(|| ()).join().is_err() {
        found.push("cannot start threads".to_owned());
    }
    found
}

fn index(
    request: &Request,
    mut source: RemoteBytes,
    link: &Arc<Link>,
    output: &mut Output,
    totals: &mut Totals,
) -> Result<(), Stop> {
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
    Damage::listen();
    // If a read fails, the parent knows the cause and reports that instead of this error.
    let head = identify::head(&mut source)
        .map_err(|e| VideoError::new(VideoErrorKind::Corrupt, format!("failed to read the file: {e}")))?;
    let mut input = open(source, &head).map_err(|error| demuxing(request, error))?;
    let stream = video_stream(&input)?;
    let stream_index = stream.index();
    let info = stream_info(&input, &stream);
    let pixels = u64::from(info.width) * u64::from(info.height);
    output.send(&Message::Opened(info.clone()))?;
    identify::refuse_encrypted_stream(&input, &stream, &head)?;
    if pixels > PIXELS_MAX {
        return Err(too_large(format!("{pixels} pixels a frame; at most {PIXELS_MAX} are decoded")).into());
    }
    let selective = match request.in_full {
        Some(reason) => Err(reason),
        None => select::codec(&input, &stream),
    };
    let mut decoder = open_decoder(&stream, request.threads, selective.is_ok())?;
    // FFmpeg does not mark every encrypted packet; some only fail to decode.
    let has_encryption = identify::has_common_encryption(&input, &head);
    let broken = |message: String| match has_encryption {
        true => identify::encrypted("Common Encryption"),
        false => VideoError::new(VideoErrorKind::Corrupt, message),
    };
    let clock = container_clock(&input, &stream);
    let mut ending = Ending::new(&input, &stream, clock.frame_ticks as f64 * clock.tick_seconds);
    if !ending.needs_all_streams() {
        discard_all_but(&mut input, stream_index);
    }

    let damage = Damage::new(input.format().name());
    totals.in_full = selective.err();
    let sender = Sender::new(request, output, info);
    let mut frames = match selective {
        Ok(codec) => {
            let samples =
                input.stream(stream_index).and_then(|stream| sparse::samples(&input, &stream, codec, request));
            let deferred = samples.map(|samples| {
                link.defer(samples.parts);
                (link.clone(), samples.keys)
            });
            Frames::Selective(Box::new(Selector::new(request, sender, totals, clock, codec, damage, deferred)))
        }
        Err(_) => Frames::Full(Box::new(Presenter::new(request, sender, totals, clock, damage))),
    };
    let mut unreadable_in_a_row = 0;
    let mut failure = None;
    loop {
        let mut packet = Packet::empty();
        match packet.read(&mut input) {
            Ok(()) => {
                unreadable_in_a_row = 0;
                let is_ours = packet.stream() == stream_index;
                if let Some(stream) = input.stream(packet.stream()).filter(|_| is_ours || ending.needs_all_streams()) {
                    ending.reach(&packet, f64::from(stream.time_base()));
                }
                if is_ours {
                    if let Err(error) = identify::refuse_encrypted_packet(&packet) {
                        failure = Some(error);
                        break;
                    }
                    frames.feed(&mut decoder, packet)?;
                }
            }
            Err(AvError::Eof) => break,
            Err(AvError::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
            Err(AvError::InvalidData) if unreadable_in_a_row < UNREADABLE_IN_A_ROW_MAX => {
                unreadable_in_a_row += 1;
                frames.unreadable()?;
            }
            Err(error) => {
                failure = Some(demuxing(request, av("read the file", error)));
                break;
            }
        }
    }
    frames.finish(&mut decoder)?;
    let is_selective = matches!(frames, Frames::Selective(_));
    let damage = frames.damage();
    let is_cut = damage.is_cut()
        || link.seen.is_cut.load(Ordering::Relaxed)
        || input.stream(stream_index).is_some_and(|stream| {
            ending.is_cut_stream(&input, &stream, request.size_bytes, &link.seen.end(request.size_bytes))
        });
    let damaged = damage.total();
    totals.damaged = damaged;
    let problem = failure.or_else(|| {
        let message = match damaged {
            _ if totals.frames_decoded == 0 => Some("no frame could be decoded".to_owned()),
            damaged => ending.missing(is_cut).or(match damaged {
                0 => None,
                1 => Some("a picture is damaged or missing".to_owned()),
                damaged => Some(format!("{damaged} pictures or more are damaged or missing")),
            }),
        };
        message.map(broken)
    });
    match problem {
        None => Ok(()),
        // Full decoding finds out how much is damaged, and shows what can be shown.
        Some(_) if is_selective => Err(FullDecode::Damage.into()),
        Some(error) => Err(error.into()),
    }
}

/// If a small file needs all memory, it declares what it does not have: a table of billions of samples, or a packet of gigabytes.
fn demuxing(request: &Request, error: VideoError) -> VideoError {
    let is_small = request.size_bytes.saturating_mul(DEMUXER_BYTES_MAX) < request.memory_bytes;
    match error.kind {
        VideoErrorKind::OutOfMemory if is_small => {
            let message = "the file declares more data than it can have".to_owned();
            VideoError::new(VideoErrorKind::Corrupt, message)
        }
        _ => error,
    }
}

/// The way from packets to the parent.
enum Frames<'a> {
    Full(Box<Presenter<'a>>),
    Selective(Box<Selector<'a>>),
}

impl Frames<'_> {
    fn feed(&mut self, decoder: &mut decoder::Video, packet: Packet) -> Result<(), Stop> {
        match self {
            Self::Full(presenter) => presenter.feed(decoder, packet),
            Self::Selective(selector) => selector.feed(decoder, packet).map_err(in_full),
        }
    }

    /// Notes a packet that could not be read.
    fn unreadable(&mut self) -> Result<(), Stop> {
        match self {
            Self::Full(presenter) => {
                presenter.damage.unreadable();
                Ok(())
            }
            Self::Selective(_) => Err(FullDecode::Damage.into()),
        }
    }

    fn finish(&mut self, decoder: &mut decoder::Video) -> Result<(), Stop> {
        match self {
            Self::Full(presenter) => presenter.finish(decoder),
            Self::Selective(selector) => selector.finish(decoder).map_err(in_full),
        }
    }

    fn damage(&mut self) -> &mut Damage {
        match self {
            Self::Full(presenter) => &mut presenter.damage,
            Self::Selective(selector) => &mut selector.damage,
        }
    }
}

/// Full decoding finds out which frames come before the one that stops the video.
fn in_full(stop: Stop) -> Stop {
    match stop {
        Stop::Video(error) if error.kind != VideoErrorKind::OutOfMemory => FullDecode::Damage.into(),
        stop => stop,
    }
}

/// Opens the container. Formats that refer to other files or addresses are rejected before they are opened.
pub(super) fn open(source: RemoteBytes, head: &[u8]) -> Result<Input, VideoError> {
    let mut io = StreamIo::from_read_seek_with_capacity(source, READ_BYTES).map_err(|e| av("open the file", e))?;
    let mut format = std::ptr::null();
    // SAFETY: `io` is a live read context, with no name and no log context. The probed bytes are rewound into its
    // buffer.
    let probed = unsafe {
        ffi::av_probe_input_buffer2(io.as_mut_ptr(), &mut format, std::ptr::null(), std::ptr::null_mut(), 0, 0)
    };
    // SAFETY: on success `format` points to one of FFmpeg's static demuxers, whose name is a static C string.
    let name = (probed >= 0).then(|| unsafe { CStr::from_ptr((*format).name) }.to_string_lossy());
    identify::refuse_text(head, name.as_deref())?;
    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "none");
    // FFmpeg would mistake a clock that restarts for one that wraps. The timeline distinguishes them.
    options.set("correct_ts_overflow", "0");
    format::input_from_stream(io, None, Some(options)).map_err(|e| av("open the container", e))
}

/// Selects the stream to decode. Its codec may have no decoder.
pub(super) fn video_stream(input: &Input) -> Result<Stream<'_>, VideoError> {
    let moving = |s: &Stream<'_>| !s.disposition().contains(Disposition::ATTACHED_PIC);
    let best = input.streams().best(media::Type::Video).filter(moving);
    let first = || input.streams().find(|s| s.parameters().medium() == media::Type::Video && moving(s));
    best.or_else(first).ok_or_else(|| {
        let kinds: Vec<_> = input.streams().map(|s| format!("{:?}", s.parameters().medium())).collect();
        VideoError::new(VideoErrorKind::NoVideoStream, format!("streams: {}", kinds.join(", ")))
    })
}

/// The orientation that the container gives for the stream.
pub(super) fn orientation(stream: &Stream<'_>) -> Orientation {
    let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
    matrix.map_or_else(Orientation::default, |matrix| Orientation::from_matrix(matrix.data()))
}

fn stream_info(input: &Input, stream: &Stream<'_>) -> StreamInfo {
    let parameters = stream.parameters();
    // SAFETY: the parameters are live; both fields are plain integers.
    let stored = unsafe { ((*parameters.as_ptr()).width as u32, (*parameters.as_ptr()).height as u32) };
    let orientation = orientation(stream);
    let (width, height) = orientation.displayed(stored);
    let container_seconds = Some(input.duration()).filter(|d| *d > 0).map(|d| d as f64 / f64::from(ffi::AV_TIME_BASE));
    StreamInfo {
        container: input.format().name().to_owned(),
        codec: identify::codec_name(stream).to_owned(),
        width,
        height,
        orientation,
        frames_per_second: Some(f64::from(stream.avg_frame_rate())).filter(|r| r.is_finite() && *r > 0.0),
        duration_seconds: stream_seconds(stream)
            .or(container_seconds)
            .filter(|seconds| (0.0..=DURATION_MAX).contains(seconds)),
    }
}

fn container_clock(input: &Input, stream: &Stream<'_>) -> ContainerClock {
    let tick_seconds = f64::from(stream.time_base());
    let rate = f64::from(stream.avg_frame_rate());
    let frame_seconds = if rate.is_finite() && rate > 0.0 { 1.0 / rate } else { 0.04 };
    // SAFETY: the stream and the format of the open input are live; both fields are plain integers.
    let (wrap_bits, flags) = unsafe { ((*stream.as_ptr()).pts_wrap_bits, (*(*input.as_ptr()).iformat).flags) };
    ContainerClock {
        tick_seconds,
        frame_ticks: ((frame_seconds / tick_seconds).round() as i64).max(1),
        wrap_bits: wrap_bits as u32,
        is_broadcast: flags & ffi::AVFMT_TS_DISCONT != 0,
    }
}

pub(super) fn open_decoder(
    stream: &Stream<'_>,
    threads: usize,
    is_selective: bool,
) -> Result<decoder::Video, VideoError> {
    let doing = "open the decoder";
    let mut context =
        ffmpeg_next::codec::context::Context::from_parameters(stream.parameters()).map_err(|e| av(doing, e))?;
    context.set_threading(threading::Config { kind: threading::Type::Frame, count: threads, ..Default::default() });
    if is_selective {
        // Otherwise the H.264 decoder drops frames that follow a recovery point if it is drained before it returned that.
        // Frames before a recovery point are marked as corrupt.
        context.set_flags(ffmpeg_next::codec::Flags::OUTPUT_CORRUPT);
    }
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    let codec = decoder::find(stream.parameters().id()).ok_or_else(|| identify::no_decoder(stream))?;
    let mut options = Dictionary::new();
    options.set("max_pixels", &PIXELS_MAX.to_string());
    decoder.open_as_with(codec, options).and_then(|opened| opened.video()).map_err(|e| av(doing, e))
}

/// Discards the packets of all other streams, so that they are not even read if the container allows that.
fn discard_all_but(input: &mut Input, index: usize) {
    for mut stream in input.streams_mut().filter(|s| s.index() != index) {
        // SAFETY: the stream belongs to the open input; the demuxer reads this field between packets only.
        unsafe { (*stream.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
    }
}
