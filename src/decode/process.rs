//! A video that is being decoded, seen from the parent of the decoder process: checks all that the child sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::claims::Claims;
use super::dialogue::{Dialogue, Limits};
use super::plan::FullDecode;
use super::protocol::{Layout, Message, Request, SlotKind, ToDecoder, Totals};
use super::template::Decoders;
use super::{ByteSource, Clip, Image, SampledFrame};
use crate::error::{Error, VideoError, WorkError};

/// How long the probe of the sandbox may take, on a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// A video that is being decoded. Dropping it kills the child process.
pub struct Decoding {
    dialogue: Dialogue,
    /// FFmpeg's name of the codec; empty before the file is opened.
    codec: String,
    claims: Claims,
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
        let (layout, claims) = (Layout::of(&request), Claims::new(&request));
        let limits = Limits { timeout, memory_bytes: request.memory_bytes };
        let cpu_seconds = limits.cpu_seconds(request.threads);
        let order = ToDecoder::Decode { request, cpu_seconds };
        let dialogue = Dialogue::start(decoders, order, layout, source, limits)?;
        Ok(Self { dialogue, codec: String::new(), claims, needs_full: None, end: None })
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
                if let Err(what) = self.claims.opened(&info) {
                    return Err(self.dialogue.lied(what).await);
                }
                self.codec.clone_from(&info.codec);
                Ok(Some(SampledFrame::Opened(info)))
            }
            Message::Clip { slot, width, height, segment, start_seconds, end_seconds, frames, sampled } => {
                let claimed = self.claims.clip((width, height), segment, start_seconds..=end_seconds, frames, &sampled);
                let bytes = match claimed {
                    Ok(bytes) => bytes,
                    Err(what) => return Err(self.dialogue.lied(what).await),
                };
                let slot = self.dialogue.slot(SlotKind::Clip, slot, bytes).await?;
                let clip = Clip { segment, start_seconds, end_seconds, frames, sampled, width, height, slot };
                Ok(Some(SampledFrame::Clip(clip)))
            }
            Message::Image { slot, frame, time_seconds, width, height } => {
                if let Err(what) = self.claims.image(frame, time_seconds, (width, height)) {
                    return Err(self.dialogue.lied(what).await);
                }
                let bytes = self.dialogue.slot_bytes(SlotKind::Image);
                let slot = self.dialogue.slot(SlotKind::Image, slot, bytes).await?;
                Ok(Some(SampledFrame::Image(Image { frame, time_seconds, width, height, slot })))
            }
            Message::Ended { totals, error } => {
                let error = match self.claims.ended(&totals, error) {
                    Ok(error) => error,
                    Err(what) => return Err(self.dialogue.lied(what).await),
                };
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
                    if let Err(what) = self.claims.needs_full() {
                        return Err(self.dialogue.lied(what).await);
                    }
                    self.needs_full = Some(reason);
                    Ok(None)
                }
            },
            Message::NotSandboxed { reason } => Err(self.dialogue.unsandboxed(&reason).await),
            Message::SandboxProbed { .. } | Message::Part { .. } | Message::CutEnded { .. } => {
                Err(self.dialogue.lied("an unexpected message").await)
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
pub async fn probe_sandbox(decoders: &Decoders) -> Result<Vec<String>, Error> {
    struct Nothing;
    #[async_trait::async_trait]
    impl ByteSource for Nothing {
        async fn read_at(&self, _: u64, _: usize) -> Result<Bytes, WorkError> {
            Ok(Bytes::new())
        }
    }
    let request = Request { probe_sandbox: true, memory_bytes: 1 << 30, ..Default::default() };
    let mut probe = Decoding::start(decoders, request, Arc::new(Nothing), PROBE_TIMEOUT)?;
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
