//! A clip that is being cut, seen from the parent of the process that cuts it: writes the parts of the file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::cut::{CutInfo, CutRequest, PART_BYTES};
use super::dialogue::{Dialogue, Limits};
use super::protocol::{Layout, Message, SlotKind, ToDecoder};
use super::template::Decoders;
use super::{ByteSource, claims};
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
    let cpu_seconds = limits.cpu_seconds(request.threads);
    let order = ToDecoder::Cut { request, cpu_seconds };
    let mut dialogue =
        Dialogue::start(decoders, order, Layout::of_parts(), source, limits).map_err(WorkError::Fatal)?;
    loop {
        match dialogue.message().await? {
            Message::Part { slot, offset, bytes } => {
                let fits =
                    bytes <= PART_BYTES && offset.checked_add(bytes as u64).is_some_and(|end| end <= CLIP_BYTES_MAX);
                if !fits {
                    return Err(dialogue.lied("a part that does not fit").await);
                }
                let part = dialogue.slot(SlotKind::Image, slot, bytes).await?;
                file.write_all_at(part.bytes(), offset)
                    .map_err(|error| WorkError::Fatal(Error::failed(format!("failed to write a clip: {error}"))))?;
            }
            Message::CutEnded { info: Some(info), error: None } => match dialogue.read_failure() {
                Some(failure) => return Err(failure),
                None if is_cut(&info) => return Ok(info),
                None => return Err(dialogue.lied("an impossible description of the clip").await),
            },
            Message::CutEnded { error: Some(error), .. } => {
                return Err(match (dialogue.read_failure(), claims::own_error(error)) {
                    (Some(failure), _) => failure,
                    (None, Ok(error)) => dialogue.explained(error, "").await.into(),
                    (None, Err(what)) => dialogue.lied(what).await,
                });
            }
            Message::NotSandboxed { reason } => return Err(dialogue.unsandboxed(&reason).await),
            _ => return Err(dialogue.lied("an unexpected message").await),
        }
    }
}

/// Whether this can describe a clip. Its container becomes the ending of a file's name.
fn is_cut(info: &CutInfo) -> bool {
    ["mp4", "matroska"].contains(&&*info.container) && info.from_seconds.is_finite()
}

/// Whether copying failed where encoding may succeed.
pub fn needs_encoding(error: &VideoError) -> bool {
    error.kind == VideoErrorKind::Unsupported
}
