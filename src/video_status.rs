//! The status of a video, and counts by status.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of a video, as in the `status` column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoStatus {
    /// Indexed completely.
    #[default]
    Ok,
    /// Indexed as far as it could be read; `error_kind` gives the cause.
    Partial,
    /// Not indexed. Any rows of it in the other tables do not count.
    Failed,
    /// Deleted from the input after it was indexed. Its rows do not count any more.
    Deleted,
}

impl VideoStatus {
    /// The status of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ok, Self::Partial, Self::Failed, Self::Deleted].into_iter().find(|status| status.as_str() == name)
    }

    /// The name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }
}

/// Number of videos by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// [`VideoStatus::Ok`].
    pub ok: u64,
    /// [`VideoStatus::Partial`].
    pub partial: u64,
    /// [`VideoStatus::Failed`].
    pub failed: u64,
    /// [`VideoStatus::Deleted`].
    pub deleted: u64,
}

impl StatusCounts {
    /// Counts one more video.
    pub fn add(&mut self, status: VideoStatus) {
        match status {
            VideoStatus::Ok => self.ok += 1,
            VideoStatus::Partial => self.partial += 1,
            VideoStatus::Failed => self.failed += 1,
            VideoStatus::Deleted => self.deleted += 1,
        }
    }

    /// Number of videos, regardless of status.
    pub fn total(&self) -> u64 {
        self.ok + self.partial + self.failed + self.deleted
    }
}

/// Formats as `6 ok, 0 partial, 0 failed`, followed by the number of deleted videos if there are any.
impl fmt::Display for StatusCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ok, partial, failed, deleted } = self;
        write!(f, "{ok} ok, {partial} partial, {failed} failed")?;
        if *deleted > 0 { write!(f, ", {deleted} deleted") } else { Ok(()) }
    }
}
