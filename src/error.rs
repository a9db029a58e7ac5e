//! Errors. Their classes differ in what the caller does: record the error in the video's row, retry the shard, or end the
//! job.

use std::fmt;

use crate::store::{StoreError, StoreErrorKind};

/// Ends the command. It is printed as `error: …`, followed by `hint: …` if there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wrong command line, job file or model: exit code 2. Nothing was started.
    #[error("{message}")]
    Usage {
        /// What is wrong, with the name of the thing.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The job could not continue: exit code 1.
    #[error("{message}")]
    Failed {
        /// What failed, with the name of the thing.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A store refused a request or could not be reached: exit code 1.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    /// A mistake of the user, without a hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// A failure of the job, without a hint.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }

    /// Adds a hint about how to fix it. A store's error keeps its own hint.
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// How to fix it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::Failed { hint, .. } => hint.as_deref(),
            Self::Store(error) => error.hint.as_deref(),
        }
    }

    /// The exit code of the process: 1 or 2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Failed { .. } | Self::Store(_) => 1,
        }
    }
}

/// A result whose error ends the command unless another type is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a video could not be indexed: all values of the column `error_kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoErrorKind {
    /// Listed, but deleted before it was read.
    NotFound,
    /// Its ETag or size differs from the listing.
    ChangedDuringRead,
    /// The store denies access to this object, although the credentials are valid for others.
    AccessDenied,
    /// In an archive storage class: it must be restored before it can be read.
    Archived,
    /// The store answers, but cannot return the bytes of this object (a customer's key, a KMS key, a bad disk block).
    Unreadable,
    /// The video is encrypted (DRM, Common Encryption).
    Encrypted,
    /// No container format recognises the bytes.
    NotAVideo,
    /// A container without a video stream (audio only, cover art).
    NoVideoStream,
    /// The container or the stream is damaged.
    Corrupt,
    /// A codec or pixel format that this FFmpeg does not decode, or a key whose partition values cannot name a folder.
    Unsupported,
    /// Frames larger than the limit of the decoder process.
    TooLarge,
    /// Not done within `video_timeout_seconds`, or the decoder hung.
    Timeout,
    /// The decoder process crashed.
    DecoderCrashed,
    /// The decoder process exceeded its memory limit.
    OutOfMemory,
}

impl VideoErrorKind {
    /// All kinds.
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

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether the error may disappear although the file does not change. The next plan retries such a video.
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

/// An error of one video. It is recorded in the video's row, and the shard continues.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{kind}: {message}")]
pub struct VideoError {
    /// The kind, for the column `error_kind`.
    pub kind: VideoErrorKind,
    /// A description for people, in one sentence.
    pub message: String,
}

impl VideoError {
    /// An error of this kind, with a description for people.
    pub fn new(kind: VideoErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Why work on a video ended early. The three classes differ in what happens next.
///
/// There is no blanket conversion from other errors: the class depends on which side failed, the input or the output,
/// so each caller names it ([`WorkError::of_input`], [`WorkError::of_output`]).
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// An error of this video: it is recorded in the video's row, and the shard continues.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// An outage that was longer than the store's own retries: the shard is retried, and then the task fails.
    #[error(transparent)]
    Transient(StoreError),
    /// An error that no retry can fix: the task ends and writes no rows.
    #[error(transparent)]
    Fatal(Error),
}

impl WorkError {
    /// Classifies an error of the input, which occurred while a video was read.
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

    /// Classifies an error of the output. It is never a video's error.
    pub fn of_output(error: Error) -> Self {
        match error {
            // A file of the index that the disk or the network does not return now is an outage.
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
            assert!(matches!(WorkError::of_input(store_error(kind)), WorkError::Fatal(Error::Store(_))), "{kind:?}");
            assert!(matches!(WorkError::of_output(store_error(kind).into()), WorkError::Fatal(_)), "{kind:?}");
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
            let WorkError::Video(error) = WorkError::of_input(store_error(kind)) else {
                panic!("{kind:?} is no video's")
            };
            assert_eq!((error.kind, error.message.as_str()), (expected, "failed to read s3://b/k: no (look)"));
        }
    }

    #[test]
    fn outages_are_retried_on_both_sides() {
        let outage = || store_error(StoreErrorKind::Transient);
        assert!(matches!(WorkError::of_input(outage()), WorkError::Transient(_)));
        assert!(matches!(WorkError::of_output(outage().into()), WorkError::Transient(_)));
        assert!(matches!(
            WorkError::of_output(store_error(StoreErrorKind::Unreadable).into()),
            WorkError::Transient(_)
        ));
        // A retry does not help without permission to write.
        assert!(matches!(WorkError::of_output(store_error(StoreErrorKind::AccessDenied).into()), WorkError::Fatal(_)));
    }
}
