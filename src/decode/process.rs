//! The decoder process, seen from its parent: starts it, serves the bytes that it reads, and checks all that it sends.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::plan::FullDecode;
use super::protocol::{ClipSpec, Layout, Message, Request, SlotKind, ToDecoder, Totals};
use super::slot::{Shared, Slot};
use super::template::{Decoders, Descriptors, Process};
use super::{ByteSource, Clip, Image, SampledFrame, avio};
use crate::error::{Error, VideoError, VideoErrorKind, WorkError};

/// Longest message accepted from a child, bytes. The longest valid one lists the frames of a clip.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A child that is silent for this long, although it is not waiting for us, is considered stuck.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often a silent child is checked.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of FFmpeg's log that are kept for the error message.
const COMPLAINT_BYTES: usize = 4096;

/// A video that is being decoded. Dropping it kills the child process.
pub struct Decoding {
    child: Process,
    messages: OwnedReadHalf,
    shared: Arc<Shared>,
    served: Arc<Served>,
    tasks: Vec<JoinHandle<()>>,
    complaints: JoinHandle<Vec<u8>>,
    /// FFmpeg's name of the codec; empty before the file is opened.
    codec: String,
    /// Shape of the requested clips, if any.
    clips: Option<ClipSpec>,
    /// Time that the child spent working rather than waiting for the parent.
    spent: Duration,
    limits: Limits,
    needs_full: Option<FullDecode>,
    /// How decoding ended, once it has: the totals, and the error if there was one.
    end: Option<(Totals, Option<VideoError>)>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    timeout: Duration,
    memory_bytes: u64,
}

/// State shared with the task that reads bytes on the child's behalf.
#[derive(Default)]
struct Served {
    failure: Mutex<Option<WorkError>>,
    reading: AtomicBool,
    /// Counts started reads and freed slots. While it changes, the child is making progress.
    activity: AtomicU64,
}

impl Decoding {
    /// Starts a decoder process on the bytes of `source`. Decoding may take as long as `timeout`, not counting the time that the
    /// child waits for the parent to take its frames.
    ///
    /// # Errors
    /// `Error` if the process cannot be started.
    pub fn start(
        decoders: &Decoders,
        request: Request,
        source: Arc<dyn ByteSource>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let io = |error: std::io::Error| Error::failed(format!("failed to start a decoder process: {error}"));
        let (freed, mut to_free) = mpsc::unbounded_channel();
        let (shared, frames) = Shared::new(Layout::of(&request), freed).map_err(io)?;
        let (control, child_control) = StdUnixStream::pair().map_err(io)?;
        let (bytes, child_bytes) = StdUnixStream::pair().map_err(io)?;
        let (log, child_log) = std::io::pipe().map_err(io)?;
        let child = decoders.start(Descriptors {
            control: child_control.into(),
            bytes: child_bytes.into(),
            frames,
            log: child_log.into(),
        })?;
        control.set_nonblocking(true).map_err(io)?;
        bytes.set_nonblocking(true).map_err(io)?;
        let (messages, mut orders) = UnixStream::from_std(control).map_err(io)?.into_split();
        let bytes = UnixStream::from_std(bytes).map_err(io)?;

        let served = Arc::new(Served::default());
        let limits = Limits { timeout, memory_bytes: request.memory_bytes };
        let clips = request.clips.clone();
        let first = ToDecoder::Decode(request);
        let activity = served.clone();
        // The queue is bounded by the number of slots. The task ends with the child or with the last slot.
        let order_task = tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(order) = next {
                if orders.write_all(&framed(&order)).await.is_err() {
                    return;
                }
                activity.activity.fetch_add(1, Ordering::Relaxed);
                next = to_free.recv().await.map(|(kind, slot)| ToDecoder::Free { kind, slot });
            }
        });
        let byte_task = tokio::spawn(serve_bytes(bytes, source, served.clone()));
        let mut log = pipe::Receiver::from_owned_fd(log.into()).map_err(io)?;
        let complaints = tokio::spawn(async move {
            let mut tail = Vec::new();
            let mut buffer = [0u8; 1024];
            let mut is_whole = true;
            while let Ok(read @ 1..) = log.read(&mut buffer).await {
                tail.extend_from_slice(&buffer[..read]);
                let surplus = tail.len().saturating_sub(COMPLAINT_BYTES);
                is_whole &= surplus == 0;
                tail.drain(..surplus);
            }
            // A line without its beginning does not tell who logged it.
            let begin = tail.iter().position(|byte| *byte == b'\n').filter(|_| !is_whole);
            tail.drain(..begin.unwrap_or(0));
            tail
        });
        Ok(Self {
            child,
            messages,
            shared,
            served,
            tasks: vec![order_task, byte_task],
            complaints,
            codec: String::new(),
            clips,
            spent: Duration::ZERO,
            limits,
            needs_full: None,
            end: None,
        })
    }

    /// Waits for the next frame. Returns `None` at the end of the video; [`Decoding::totals`] is complete then.
    ///
    /// # Errors
    /// `WorkError::Video` if the video cannot be decoded, even after some frames were returned.
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the `Decoding` if this future is dropped.
    pub async fn next(&mut self) -> Result<Option<SampledFrame>, WorkError> {
        match self.message().await? {
            Message::Opened(info) => {
                self.codec.clone_from(&info.codec);
                Ok(Some(SampledFrame::Opened(info)))
            }
            Message::Clip { slot, width, height, segment, start_seconds, end_seconds, frames, sampled } => {
                let spec = self.clips.as_ref().filter(|spec| spec.holds((width, height)));
                let Some(bytes) = spec.map(|spec| spec.bytes((width, height))) else {
                    return Err(self.crashed("it sent a clip of the wrong size").await);
                };
                let slot = self.slot(SlotKind::Clip, slot, bytes)?;
                let clip = Clip { segment, start_seconds, end_seconds, frames, sampled, width, height, slot };
                Ok(Some(SampledFrame::Clip(clip)))
            }
            Message::Image { slot, frame, time_seconds, width, height } => {
                let slot = self.slot(SlotKind::Image, slot, self.shared.slot_bytes(SlotKind::Image))?;
                if width == 0 || height == 0 {
                    return Err(self.crashed("it sent an image without pixels").await);
                }
                Ok(Some(SampledFrame::Image(Image { frame, time_seconds, width, height, slot })))
            }
            Message::Ended { totals, error } => {
                self.end = Some((totals, error.clone()));
                match self.read_failure().or(error.map(WorkError::Video)) {
                    None => Ok(None),
                    Some(WorkError::Video(error)) => Err(WorkError::Video(self.explained(error).await)),
                    Some(failure) => Err(failure),
                }
            }
            // If a read failed, reading everything fails too.
            Message::NeedsFull { reason } => match self.read_failure() {
                Some(failure) => Err(failure),
                None => {
                    self.needs_full = Some(reason);
                    Ok(None)
                }
            },
            Message::NotSandboxed { reason } => Err(WorkError::Fatal(not_sandboxed(&reason))),
            Message::SandboxProbed { .. } => Err(self.crashed("it sent an unexpected message").await),
        }
    }

    /// What the child reports to have done. All zero if it died before it could report.
    pub fn totals(&self) -> Totals {
        self.end.as_ref().map_or_else(Totals::default, |(totals, _)| *totals)
    }

    /// Why the video must be decoded again in full ([`Request::in_full`]), and all frames that were returned discarded.
    pub fn needs_full(&self) -> Option<FullDecode> {
        self.needs_full
    }

    fn read_failure(&self) -> Option<WorkError> {
        self.served.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Validates the child's description of a slot before the parent reads from it.
    fn slot(&self, kind: SlotKind, slot: usize, bytes: usize) -> Result<Slot, WorkError> {
        let missing =
            || VideoError::new(VideoErrorKind::DecoderCrashed, "the decoder named a slot that does not exist");
        self.shared.take(kind, slot, bytes).ok_or_else(|| missing().into())
    }

    /// Waits for a message. The time that the child waits for us because inference is behind does not count towards its
    /// limits: a long video on a slow machine is not stuck.
    async fn message(&mut self) -> Result<Message, WorkError> {
        let (shared, served) = (self.shared.clone(), self.served.clone());
        let mut activity = served.activity.load(Ordering::Relaxed);
        let mut silent = Duration::ZERO;
        let mut reading = Box::pin(receive(&mut self.messages));
        let timed_out = |message: String| Err(VideoError::new(VideoErrorKind::Timeout, message).into());
        loop {
            if self.spent >= self.limits.timeout {
                return timed_out(format!("decoding took longer than {} s", self.limits.timeout.as_secs()));
            }
            if silent > SILENCE_MAX {
                return timed_out(format!("the decoder made no progress for {} s", SILENCE_MAX.as_secs()));
            }
            let is_held_back = shared.is_used_up();
            let started = Instant::now();
            let patience = TICK.min(self.limits.timeout - self.spent);
            let answer = tokio::time::timeout(patience, &mut reading).await;
            if !is_held_back {
                self.spent += started.elapsed();
            }
            match answer {
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(_)) => break,
                Err(_) => {}
            }
            let now = served.activity.load(Ordering::Relaxed);
            if now != activity || is_held_back || served.reading.load(Ordering::Relaxed) {
                (activity, silent) = (now, Duration::ZERO);
            } else {
                silent += patience;
            }
        }
        drop(reading);
        Err(self.crashed("").await)
    }

    /// Explains why the child ended without a report or sent an invalid message. `seen` is what the parent observed.
    async fn crashed(&mut self, seen: &str) -> WorkError {
        if let Some(failure) = self.read_failure() {
            return failure;
        }
        self.child.kill();
        let status = self.child.wait().await;
        let complaints = self.complaints().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if complaints.contains("memory allocation of") {
            let limit = self.limits.memory_bytes >> 20;
            return VideoError::new(VideoErrorKind::OutOfMemory, format!("the decoder needs more than {limit} MiB"))
                .into();
        }
        let detail: Vec<&str> =
            [seen, status.as_str(), last_line(&complaints)].into_iter().filter(|s| !s.is_empty()).collect();
        VideoError::new(VideoErrorKind::DecoderCrashed, format!("the decoder died: {}", detail.join("; "))).into()
    }

    /// Appends a line of FFmpeg's log to the error, except for encrypted videos, where FFmpeg's messages are meaningless.
    async fn explained(&mut self, error: VideoError) -> VideoError {
        if error.kind == VideoErrorKind::Encrypted {
            return error;
        }
        let complaints = self.complaints().await;
        match explanation(&complaints, &self.codec) {
            "" => error,
            line => VideoError { message: format!("{} ({line})", error.message), ..error },
        }
    }

    async fn complaints(&mut self) -> String {
        let tail = tokio::time::timeout(Duration::from_secs(2), &mut self.complaints).await;
        tail.ok()
            .and_then(Result::ok)
            .map(|tail| without_addresses(&String::from_utf8_lossy(&tail)))
            .unwrap_or_default()
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.complaints.abort();
    }
}

/// Starts a decoder process that tries to open a file, a socket and a program, and fails if any of them succeeds.
pub async fn probe_sandbox(program: &Path) -> Result<(), Error> {
    struct Nothing;
    #[async_trait::async_trait]
    impl ByteSource for Nothing {
        async fn read_at(&self, _: u64, _: usize) -> Result<Bytes, WorkError> {
            Ok(Bytes::new())
        }
    }
    let request = Request { probe_sandbox: true, memory_bytes: 1 << 30, ..Default::default() };
    let decoders = Decoders::new(program);
    let mut probe = Decoding::start(&decoders, request, Arc::new(Nothing), Duration::from_secs(10))?;
    match probe.message().await {
        Ok(Message::SandboxProbed { escapes }) if escapes.is_empty() => Ok(()),
        Ok(Message::SandboxProbed { escapes }) => Err(not_sandboxed(&format!("the decoder {}", escapes.join(", ")))),
        Ok(Message::NotSandboxed { reason }) => Err(not_sandboxed(&reason)),
        Ok(_) => Err(not_sandboxed("the decoder sent an invalid answer")),
        Err(WorkError::Fatal(error)) => Err(error),
        Err(WorkError::Video(error)) => Err(not_sandboxed(&error.message)),
        Err(WorkError::Transient(error)) => Err(error.into()),
    }
}

/// Path of this binary, which is also the decoder program.
pub fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|error| Error::failed(format!("failed to find this program's own file: {error}")))
}

fn not_sandboxed(reason: &str) -> Error {
    Error::failed(format!("the decoder process is not sandboxed: {reason}")).with_hint(
        "allow seccomp filters in the kernel (CONFIG_SECCOMP_FILTER) and in the container's security profile",
    )
}

fn last_line(complaints: &str) -> &str {
    complaints.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("")
}

/// The line of the log that explains an error in a video: the last one that the demuxer logged. The decoder's threads log in any
/// order, so if only they did, the first line by the alphabet, which is the same in each run.
fn explanation<'a>(complaints: &'a str, codec: &str) -> &'a str {
    let lines = complaints.lines().map(str::trim).filter(|line| !line.is_empty());
    let decoders = format!("[{codec}]");
    lines.clone().rfind(|line| !line.starts_with(&decoders)).or_else(|| lines.min()).unwrap_or("")
}

/// Removes heap addresses from FFmpeg's log lines (`[h264 @ 0x55d0c8a5e040]`), because they differ from run to run.
fn without_addresses(lines: &str) -> String {
    let mut parts = lines.split(" @ 0x");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}

fn framed(order: &ToDecoder) -> Vec<u8> {
    let body = serde_json::to_vec(order).unwrap_or_default();
    let mut framed = (body.len() as u32).to_le_bytes().to_vec();
    framed.extend_from_slice(&body);
    framed
}

async fn receive(messages: &mut OwnedReadHalf) -> std::io::Result<Message> {
    let length = messages.read_u32_le().await? as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    messages.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Answers the child's reads until it ends. Keeps the first failure; the child only learns that a read failed.
async fn serve_bytes(mut socket: UnixStream, source: Arc<dyn ByteSource>, served: Arc<Served>) {
    loop {
        let (Ok(offset), Ok(length)) = (socket.read_u64_le().await, socket.read_u32_le().await) else { return };
        served.reading.store(true, Ordering::Relaxed);
        let result = match length & avio::SPARSE {
            0 => source.read_at(offset, (length as usize).min(avio::READ_BYTES)).await,
            _ => {
                let needed = (length & !avio::SPARSE) as usize;
                source
                    .read_sparsely(offset, needed)
                    .await
                    .map(|mut bytes| bytes.split_to(bytes.len().min(avio::READ_BYTES)))
            }
        };
        served.reading.store(false, Ordering::Relaxed);
        served.activity.fetch_add(1, Ordering::Relaxed);
        let sent = match result {
            Ok(bytes) => match socket.write_u32_le(bytes.len() as u32).await {
                Ok(()) => socket.write_all(&bytes).await,
                Err(error) => Err(error),
            },
            Err(failure) => {
                served.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                socket.write_u32_le(avio::READ_FAILED).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_lose_only_their_addresses() {
        let line = "[mov,mp4 @ 0x55d0c8a5e040] [eia608 @ 0x1f] moov atom not found @ 0, offset 0x1f";
        assert_eq!(without_addresses(line), "[mov,mp4] [eia608] moov atom not found @ 0, offset 0x1f");
        assert_eq!(without_addresses(""), "");
    }

    #[test]
    fn an_error_is_explained_by_the_demuxer_and_by_the_same_line_in_each_run() {
        let lines =
            ["[h264] error while decoding MB 1 2", "[mov,mp4] stream 0: partial file", "[h264] concealing 3 errors"];
        let explained = |order: &[usize]| {
            let log: Vec<_> = order.iter().map(|line| lines[*line]).collect();
            explanation(&log.join("\n"), "h264").to_owned()
        };
        assert_eq!([explained(&[0, 1, 2]), explained(&[1, 2, 0])], [lines[1]; 2]);
        assert_eq!([explained(&[0, 2]), explained(&[2, 0])], [lines[2]; 2]);
        assert_eq!(explained(&[]), "");
    }
}
