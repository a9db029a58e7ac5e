//! A clip that is being cut, seen from the parent of the process that cuts it: writes the parts of the file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::ByteSource;
use super::cut::{CutInfo, CutRequest, PART_BYTES};
use super::dialogue::{Dialogue, Limits};
use super::protocol::{Layout, Message, SlotKind, ToDecoder};
use super::template::Decoders;
use crate::error::{Error, VideoError, VideoErrorKind, WorkError};

/// Largest clip.
const CLIP_BYTES_MAX: u64 = 64 << 30;

/// Cuts a part out of the video whose bytes are in `source`, and writes it to `file`. That may take as long as `timeout`.
///
/// # Errors
/// `WorkError::Video` if the part cannot be cut: of the kind `Unsupported` if its packets cannot be copied.
pub async fn cut(
    decoders: &Decoders,
    request: CutRequest,
    source: Arc<dyn ByteSource>,
    timeout: Duration,
    file: &File,
) -> Result<CutInfo, WorkError> {
    let limits = Limits { timeout, memory_bytes: request.memory_bytes };
    let mut dialogue = Dialogue::start(decoders, ToDecoder::Cut(request), Layout::of_parts(), source, limits)
        .map_err(WorkError::Fatal)?;
    loop {
        match dialogue.message().await? {
            Message::Part { slot, offset, bytes } => {
                let fits =
                    bytes <= PART_BYTES && offset.checked_add(bytes as u64).is_some_and(|end| end <= CLIP_BYTES_MAX);
                if !fits {
                    return Err(dialogue.crashed("it sent a part that does not fit").await);
                }
                let part = dialogue.slot(SlotKind::Image, slot, bytes)?;
                file.write_all_at(part.bytes(), offset)
                    .map_err(|error| WorkError::Fatal(Error::failed(format!("failed to write a clip: {error}"))))?;
            }
            Message::CutEnded { info: Some(info), error: None } => match dialogue.read_failure() {
                Some(failure) => return Err(failure),
                None => return Ok(info),
            },
            Message::CutEnded { error: Some(error), .. } => {
                return Err(match dialogue.read_failure() {
                    Some(failure) => failure,
                    None => dialogue.explained(error, "").await.into(),
                });
            }
            Message::NotSandboxed { reason } => return Err(WorkError::Fatal(super::process::not_sandboxed(&reason))),
            _ => return Err(dialogue.crashed("it sent an unexpected message").await),
        }
    }
}

/// Whether copying failed where encoding may succeed.
pub fn needs_encoding(error: &VideoError) -> bool {
    error.kind == VideoErrorKind::Unsupported
}
