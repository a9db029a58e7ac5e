//! A video that is being decoded, seen from the parent of the decoder process: checks all that the child sends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::dialogue::{Dialogue, Limits};
use super::plan::FullDecode;
use super::protocol::{ClipSpec, Layout, Message, Request, SlotKind, ToDecoder, Totals};
use super::template::Decoders;
use super::{ByteSource, Clip, Image, SampledFrame};
use crate::error::{Error, VideoError, WorkError};

/// A video that is being decoded. Dropping it kills the child process.
pub struct Decoding {
    dialogue: Dialogue,
    /// FFmpeg's name of the codec; empty before the file is opened.
    codec: String,
    /// Shape of the requested clips, if any.
    clips: Option<ClipSpec>,
    needs_full: Option<FullDecode>,
    /// How decoding ended, once it has: the totals, and the error if there was one.
    end: Option<(Totals, Option<VideoError>)>,
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
        let (layout, clips) = (Layout::of(&request), request.clips.clone());
        let limits = Limits { timeout, memory_bytes: request.memory_bytes };
        let dialogue = Dialogue::start(decoders, ToDecoder::Decode(request), layout, source, limits)?;
        Ok(Self { dialogue, codec: String::new(), clips, needs_full: None, end: None })
    }

    /// Waits for the next frame. Returns `None` at the end of the video; [`Decoding::totals`] is complete then.
    ///
    /// # Errors
    /// `WorkError::Video` if the video cannot be decoded, even after some frames were returned.
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the `Decoding` if this future is dropped.
    pub async fn next(&mut self) -> Result<Option<SampledFrame>, WorkError> {
        match self.dialogue.message().await? {
            Message::Opened(info) => {
                self.codec.clone_from(&info.codec);
                Ok(Some(SampledFrame::Opened(info)))
            }
            Message::Clip { slot, width, height, segment, start_seconds, end_seconds, frames, sampled } => {
                let spec = self.clips.as_ref().filter(|spec| spec.holds((width, height)));
                let Some(bytes) = spec.map(|spec| spec.bytes((width, height))) else {
                    return Err(self.dialogue.crashed("it sent a clip of the wrong size").await);
                };
                let slot = self.dialogue.slot(SlotKind::Clip, slot, bytes)?;
                let clip = Clip { segment, start_seconds, end_seconds, frames, sampled, width, height, slot };
                Ok(Some(SampledFrame::Clip(clip)))
            }
            Message::Image { slot, frame, time_seconds, width, height } => {
                let slot = self.dialogue.slot(SlotKind::Image, slot, self.dialogue.slot_bytes(SlotKind::Image))?;
                if width == 0 || height == 0 {
                    return Err(self.dialogue.crashed("it sent an image without pixels").await);
                }
                Ok(Some(SampledFrame::Image(Image { frame, time_seconds, width, height, slot })))
            }
            Message::Ended { totals, error } => {
                self.end = Some((totals, error.clone()));
                match self.dialogue.read_failure().or(error.map(WorkError::Video)) {
                    None => Ok(None),
                    Some(WorkError::Video(error)) => {
                        Err(WorkError::Video(self.dialogue.explained(error, &self.codec).await))
                    }
                    Some(failure) => Err(failure),
                }
            }
            // If a read failed, reading everything fails too.
            Message::NeedsFull { reason } => match self.dialogue.read_failure() {
                Some(failure) => Err(failure),
                None => {
                    self.needs_full = Some(reason);
                    Ok(None)
                }
            },
            Message::NotSandboxed { reason } => Err(WorkError::Fatal(not_sandboxed(&reason))),
            Message::SandboxProbed { .. } | Message::Part { .. } | Message::CutEnded { .. } => {
                Err(self.dialogue.crashed("it sent an unexpected message").await)
            }
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
}

/// Starts a decoder process that tries what the sandbox must prevent, such as to open a file, and fails if any of it succeeds.
/// Returns the layers of the sandbox that this machine does not allow.
pub async fn probe_sandbox(program: &Path) -> Result<Vec<String>, Error> {
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
    match probe.dialogue.message().await {
        Ok(Message::SandboxProbed { escapes, missing }) if escapes.is_empty() => Ok(missing),
        Ok(Message::SandboxProbed { escapes, .. }) => {
            Err(not_sandboxed(&format!("the decoder {}", escapes.join(", "))))
        }
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

pub(super) fn not_sandboxed(reason: &str) -> Error {
    Error::failed(format!("the decoder process is not sandboxed: {reason}")).with_hint(
        "allow seccomp filters in the kernel (CONFIG_SECCOMP_FILTER) and in the container's security profile",
    )
}
