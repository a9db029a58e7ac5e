//! The dialogue with a decoder process, seen from its parent: starts it, serves the bytes that it reads, and waits for its
//! messages.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::claims::plain;
use super::process::not_sandboxed;
use super::protocol::{Layout, Message, SlotKind, ToDecoder};
use super::slot::{Shared, Slot};
use super::template::{Decoders, Descriptors, Process};
use super::{ByteSource, avio};
use crate::error::{Error, VideoError, VideoErrorKind, WorkError};

/// Longest message accepted from a child, bytes. The longest valid one lists the frames of a clip.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A child that is silent for this long, although it is not waiting for us, is considered stuck.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often a silent child is checked.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of FFmpeg's log that are kept for the error message.
const COMPLAINT_BYTES: usize = 4096;

/// A decoder process at work. Dropping it kills the process.
pub(super) struct Dialogue {
    child: Process,
    messages: OwnedReadHalf,
    shared: Arc<Shared>,
    served: Arc<Served>,
    tasks: Vec<JoinHandle<()>>,
    complaints: JoinHandle<Vec<u8>>,
    /// Time that the child spent working rather than waiting for the parent.
    spent: Duration,
    limits: Limits,
}

/// What a child may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long it may work, not counting the time that it waits for the parent.
    pub(super) timeout: Duration,
    /// Its memory.
    pub(super) memory_bytes: u64,
}

impl Limits {
    /// Time of all processors together, for a process with this number of threads.
    pub(super) fn cpu_seconds(&self, threads: usize) -> u64 {
        let threads = u64::try_from(threads.max(1)).unwrap_or(u64::MAX);
        self.timeout.as_secs().saturating_add(1).saturating_mul(threads)
    }
}

/// State shared with the task that reads bytes on the child's behalf.
#[derive(Default)]
struct Served {
    failure: Mutex<Option<WorkError>>,
    reading: AtomicBool,
    /// Counts started reads and freed slots. While it changes, the child is making progress.
    activity: AtomicU64,
    /// Whether the child has seen bytes of the video, which may control it since.
    has_read: AtomicBool,
}

impl Dialogue {
    /// Starts a process that shares memory of this layout, and sends it the first order.
    pub(super) fn start(
        decoders: &Decoders,
        first: ToDecoder,
        layout: Layout,
        source: Arc<dyn ByteSource>,
        limits: Limits,
    ) -> Result<Self, Error> {
        let io = |error: std::io::Error| Error::failed(format!("failed to start a decoder process: {error}"));
        let (freed, mut to_free) = mpsc::unbounded_channel();
        let (shared, frames) = Shared::new(layout, freed).map_err(io)?;
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
        let tasks = vec![order_task, byte_task];
        Ok(Self { child, messages, shared, served, tasks, complaints, spent: Duration::ZERO, limits })
    }

    /// Why the child's last read failed, if one did.
    pub(super) fn read_failure(&self) -> Option<WorkError> {
        self.served.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes a slot that the child has filled.
    pub(super) async fn slot(&mut self, kind: SlotKind, slot: usize, bytes: usize) -> Result<Slot, WorkError> {
        match self.shared.take(kind, slot, bytes) {
            Some(slot) => Ok(slot),
            None => Err(self.lied("a slot that it does not have").await),
        }
    }

    /// Bytes of each slot of this kind.
    pub(super) fn slot_bytes(&self, kind: SlotKind) -> usize {
        self.shared.slot_bytes(kind)
    }

    /// Waits for a message. The time that the child waits for us because inference is behind does not count towards its
    /// limits: a long video on a slow machine is not stuck.
    pub(super) async fn message(&mut self) -> Result<Message, WorkError> {
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

    /// The child sent what cannot be true. Kills it.
    pub(super) async fn lied(&mut self, what: &str) -> WorkError {
        self.crashed(&format!("it sent {what}")).await
    }

    /// The child reports that it could not enter the sandbox, which stops the job: no video can be decoded. Once it has read
    /// from the video, that is for sure a lie.
    pub(super) async fn unsandboxed(&mut self, reason: &str) -> WorkError {
        match self.served.has_read.load(Ordering::Relaxed) {
            true => self.lied("an unexpected message").await,
            false => WorkError::Fatal(not_sandboxed(&plain(reason))),
        }
    }

    /// Explains why the child ended without a report or sent an invalid message. `seen` is what the parent observed.
    pub(super) async fn crashed(&mut self, seen: &str) -> WorkError {
        if let Some(failure) = self.read_failure() {
            return failure;
        }
        self.child.kill();
        let status = self.child.wait().await;
        if status.as_ref().is_ok_and(|status| status.signal() == Some(libc::SIGXCPU)) {
            let message = format!("decoding took more processor time than {} s allow", self.limits.timeout.as_secs());
            return VideoError::new(VideoErrorKind::Timeout, message).into();
        }
        let complaints = self.complaints().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if complaints.contains("memory allocation of") {
            let limit = self.limits.memory_bytes >> 20;
            return VideoError::new(VideoErrorKind::OutOfMemory, format!("the decoder needs more than {limit} MiB"))
                .into();
        }
        let detail: Vec<&str> =
            [seen, status.as_str(), last_line(&complaints)].into_iter().filter(|s| !s.is_empty()).collect();
        let detail = plain(&detail.join("; "));
        VideoError::new(VideoErrorKind::DecoderCrashed, format!("the decoder died: {detail}")).into()
    }

    /// Appends a line of FFmpeg's log to the error of a video with this codec, except for encrypted videos, where FFmpeg's messages are meaningless.
    pub(super) async fn explained(&mut self, error: VideoError, codec: &str) -> VideoError {
        if error.kind == VideoErrorKind::Encrypted {
            return error;
        }
        let complaints = self.complaints().await;
        match explanation(&complaints, codec) {
            "" => error,
            line => VideoError { message: format!("{} ({})", error.message, plain(line)), ..error },
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

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.complaints.abort();
    }
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
        served.has_read.store(true, Ordering::Relaxed);
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
