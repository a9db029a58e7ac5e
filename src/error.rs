//! The three classes of error, told apart by what the caller does: record it against the video, give up the shard,
//! or stop the job.

use std::fmt;

use crate::store::{StoreError, StoreErrorKind};

/// Ends the job (or the command): printed as `error: …`, then `hint: …` where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong usage, job file or model: exit code 2. Nothing was started.
    #[error("{message}")]
    Usage {
        /// What is wrong, naming the thing.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The job could not go on: exit code 1.
    #[error("{message}")]
    Failed {
        /// What failed, naming the thing.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A store refused or could not be reached: exit code 1 (2 where the job file must be wrong).
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    /// A mistake of the user's, without a hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// A failure of the job, without a hint.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }

    /// Adds how to fix it. A store's error keeps its own hint.
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::Failed { hint, .. } => hint.as_deref(),
            Self::Store(error) => error.hint.as_deref(),
        }
    }

    /// The process's exit code for this error (1 or 2).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Failed { .. } | Self::Store(_) => 1,
        }
    }
}

/// Shorthand for results whose error ends the job.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why one video could not be indexed: the closed list behind the `error_kind` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoErrorKind {
    /// Listed, but gone when it was read.
    NotFound,
    /// Its etag or size is another than the one listed.
    ChangedDuringRead,
    /// The store refuses to give this object, though its credentials are good for others.
    AccessDenied,
    /// In an archive storage class: it must be restored before it can be read.
    Archived,
    /// The store answers, but cannot give this object's bytes (a customer's key, a KMS key, a bad disk block).
    Unreadable,
    /// Its pictures are encrypted (DRM, Common Encryption).
    Encrypted,
    /// No container format recognises the bytes.
    NotAVideo,
    /// A container without moving pictures (audio only, cover art).
    NoVideoStream,
    /// A container or stream that is damaged.
    Corrupt,
    /// A codec or pixel format that this FFmpeg does not decode, or a key whose partition values make no folder.
    Unsupported,
    /// Frames larger than the decoder process may hold.
    TooLarge,
    /// No end within `video_timeout_seconds`, or the decoder hung.
    Timeout,
    /// The decoder process died.
    DecoderCrashed,
    /// The decoder process asked for more memory than it may have.
    OutOfMemory,
}

impl VideoErrorKind {
    /// The whole list.
    pub const ALL: [Self; 14] = [
        Self::NotFound,
        Self::ChangedDuringRead,
        Self::AccessDenied,
        Self::Archived,
        Self::Unreadable,
        Self::Encrypted,
        Self::NotAVideo,
        Self::NoVideoStream,
        Self::Corrupt,
        Self::Unsupported,
        Self::TooLarge,
        Self::Timeout,
        Self::DecoderCrashed,
        Self::OutOfMemory,
    ];

    /// Whether the cause may pass without the file changing: the next plan tries such a video again by itself.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::AccessDenied
                | Self::Archived
                | Self::Unreadable
                | Self::Timeout
                | Self::OutOfMemory
                | Self::ChangedDuringRead
        )
    }

    /// The name as written to the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::ChangedDuringRead => "changed_during_read",
            Self::AccessDenied => "access_denied",
            Self::Archived => "archived",
            Self::Unreadable => "unreadable",
            Self::Encrypted => "encrypted",
            Self::NotAVideo => "not_a_video",
            Self::NoVideoStream => "no_video_stream",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::DecoderCrashed => "decoder_crashed",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

impl fmt::Display for VideoErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong with one video: recorded in its row, and the shard goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{kind}: {message}")]
pub struct VideoError {
    /// Which of the closed list.
    pub kind: VideoErrorKind,
    /// For a person: what was seen, in a sentence.
    pub message: String,
}

impl VideoError {
    /// An error of this kind, with what was seen.
    pub fn new(kind: VideoErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Why work on a video ended early. The three classes differ in what happens next.
///
/// There is no blanket conversion from other errors: the class depends on which side failed, the input or the output,
/// so each caller names it ([`Failure::of_input`], [`Failure::of_output`]).
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This video's own fault: its row says so, and the shard goes on.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// An outage that outlasted the store's own retries: the shard is tried again, then the task gives up.
    #[error(transparent)]
    Transient(StoreError),
    /// Nothing that a retry could fix: the task ends and writes no row.
    #[error(transparent)]
    Fatal(Error),
}

impl Failure {
    /// What an error of the input means while a video is read.
    pub fn of_input(error: StoreError) -> Self {
        let kind = match error.kind {
            StoreErrorKind::NotFound => VideoErrorKind::NotFound,
            StoreErrorKind::Changed => VideoErrorKind::ChangedDuringRead,
            StoreErrorKind::AccessDenied => VideoErrorKind::AccessDenied,
            StoreErrorKind::Archived => VideoErrorKind::Archived,
            StoreErrorKind::Unreadable => VideoErrorKind::Unreadable,
            StoreErrorKind::Transient => return Self::Transient(error),
            StoreErrorKind::NoRoot | StoreErrorKind::Credentials | StoreErrorKind::Refused => {
                return Self::Fatal(error.into());
            }
        };
        let message = match &error.hint {
            Some(hint) => format!("{} ({hint})", error.message),
            None => error.message,
        };
        Self::Video(VideoError::new(kind, message))
    }

    /// What an error means while the output is read or written: no video is to blame for it.
    pub fn of_output(error: Error) -> Self {
        match error {
            // A file of ours that the disk or the network does not give now is an outage.
            Error::Store(error) if matches!(error.kind, StoreErrorKind::Transient | StoreErrorKind::Unreadable) => {
                Self::Transient(error)
            }
            error => Self::Fatal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_error(kind: StoreErrorKind) -> StoreError {
        StoreError { kind, message: "failed to read s3://b/k: no".to_owned(), hint: Some("look".to_owned()) }
    }

    #[test]
    fn credentials_and_clocks_never_cost_a_video() {
        for kind in [StoreErrorKind::Credentials, StoreErrorKind::NoRoot, StoreErrorKind::Refused] {
            assert!(matches!(Failure::of_input(store_error(kind)), Failure::Fatal(Error::Store(_))), "{kind:?}");
            assert!(matches!(Failure::of_output(store_error(kind).into()), Failure::Fatal(_)), "{kind:?}");
        }
    }

    #[test]
    fn an_object_that_cannot_be_read_costs_that_object_and_its_row_has_the_hint() {
        let kinds = [
            (StoreErrorKind::NotFound, VideoErrorKind::NotFound),
            (StoreErrorKind::AccessDenied, VideoErrorKind::AccessDenied),
            (StoreErrorKind::Archived, VideoErrorKind::Archived),
            (StoreErrorKind::Unreadable, VideoErrorKind::Unreadable),
            (StoreErrorKind::Changed, VideoErrorKind::ChangedDuringRead),
        ];
        for (kind, expected) in kinds {
            let Failure::Video(error) = Failure::of_input(store_error(kind)) else { panic!("{kind:?} is no video's") };
            assert_eq!((error.kind, error.message.as_str()), (expected, "failed to read s3://b/k: no (look)"));
        }
    }

    #[test]
    fn outages_are_retried_on_both_sides() {
        let outage = || store_error(StoreErrorKind::Transient);
        assert!(matches!(Failure::of_input(outage()), Failure::Transient(_)));
        assert!(matches!(Failure::of_output(outage().into()), Failure::Transient(_)));
        assert!(matches!(Failure::of_output(store_error(StoreErrorKind::Unreadable).into()), Failure::Transient(_)));
        // Without the right to write, no retry helps.
        assert!(matches!(Failure::of_output(store_error(StoreErrorKind::AccessDenied).into()), Failure::Fatal(_)));
    }
}
