//! Decides what a run does with a listed video, from the outcome of earlier runs.

use super::indexed::{Cause, Earlier};
use super::{FAILURES_MAX, PlanOptions};
use crate::run::Todo;

/// What happens to a listed video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is indexed: it is new or has changed.
    New,
    /// It is indexed again: it failed, and the cause may have passed or the user asks for a retry.
    Retry { failures: u32 },
    /// It is in an archive storage class. A row says so, and the video is not read.
    Archived { storage_class: String },
    /// It was deleted and is back. Its earlier rows are copied.
    Restore { from: String },
    /// An interrupted run finished it. The saved rows are copied.
    Resume { from: String },
    /// It is left out.
    Skip(Skip),
}

/// Why a video is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// It is indexed.
    Done,
    /// It failed before, and a retry cannot succeed.
    FailedBefore,
    /// It failed [`FAILURES_MAX`] times in a row.
    GivenUp,
    /// It is still in an archive storage class.
    StillArchived,
}

impl Decision {
    /// `archived` is the video's storage class if the listing says that the video cannot be read. `source` returns where its
    /// earlier rows are; it is called for deleted videos only.
    pub(super) fn of(
        earlier: Option<Earlier>,
        archived: Option<&str>,
        source: impl FnOnce() -> Option<String>,
        options: PlanOptions,
    ) -> Self {
        let source = if earlier == Some(Earlier::Deleted) { source() } else { None };
        match (earlier, archived) {
            (Some(Earlier::Done), _) => Self::Skip(Skip::Done),
            (Some(Earlier::Failed { failures, .. }), _) if options.retry_failed => {
                Self::Retry { failures: failures.into() }
            }
            // A listing may not know that the object was restored, so the read is tried.
            (Some(Earlier::Archived), _) if options.retry_failed => Self::Retry { failures: 0 },
            (Some(Earlier::Failed { cause: Cause::Permanent, .. }), _) => Self::Skip(Skip::FailedBefore),
            (Some(Earlier::Failed { failures, .. }), _) if u32::from(failures) >= FAILURES_MAX => {
                Self::Skip(Skip::GivenUp)
            }
            (Some(Earlier::Archived), Some(_)) => Self::Skip(Skip::StillArchived),
            (Some(Earlier::Archived), None) => Self::Retry { failures: 0 },
            (Some(Earlier::Failed { failures, .. }), None) => Self::Retry { failures: failures.into() },
            (None | Some(Earlier::Deleted), archived) => match (source, archived) {
                (Some(from), _) => Self::Restore { from },
                (None, Some(class)) => Self::Archived { storage_class: class.to_owned() },
                (None, None) => Self::New,
            },
            (Some(Earlier::Failed { .. }), Some(class)) => Self::Archived { storage_class: class.to_owned() },
        }
    }

    /// Replaces indexing by copying, if an interrupted run saved the rows of the video.
    pub(super) fn or_resumed(self, saved: impl FnOnce() -> Option<String>) -> Self {
        match self {
            Self::New | Self::Retry { .. } => saved().map_or(self, |from| Self::Resume { from }),
            decided => decided,
        }
    }

    /// What the run does with the video. None if it leaves it out.
    pub(super) fn todo(&self) -> Option<Todo> {
        match self.clone() {
            Self::New => Some(Todo::default()),
            Self::Retry { failures } => Some(Todo::Index { failures }),
            Self::Archived { storage_class } => Some(Todo::MarkArchived { storage_class }),
            Self::Restore { from } | Self::Resume { from } => Some(Todo::Restore { from }),
            Self::Skip(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failures: u8, cause: Cause) -> Option<Earlier> {
        Some(Earlier::Failed { failures, cause })
    }

    fn decided(earlier: Option<Earlier>, archived: Option<&str>, source: Option<&str>, retry_failed: bool) -> Decision {
        let options = PlanOptions { retry_failed, ..PlanOptions::default() };
        Decision::of(earlier, archived, || source.map(str::to_owned), options)
    }

    #[test]
    fn a_cause_that_may_pass_is_retried_until_it_failed_five_times_in_a_row() {
        for failures in 0..5 {
            let retried = Decision::Retry { failures: failures.into() };
            assert_eq!(decided(failed(failures, Cause::MayPass), None, None, false), retried);
            assert_eq!(
                decided(failed(failures, Cause::Permanent), None, None, false),
                Decision::Skip(Skip::FailedBefore)
            );
        }
        assert_eq!(decided(failed(5, Cause::MayPass), None, None, false), Decision::Skip(Skip::GivenUp));
        for (failures, cause) in [(1, Cause::Permanent), (5, Cause::MayPass), (255, Cause::MayPass)] {
            let asked = decided(failed(failures, cause), None, None, true);
            assert_eq!(asked, Decision::Retry { failures: failures.into() });
        }
    }

    #[test]
    fn an_archived_video_is_marked_once_and_taken_when_the_listing_says_that_it_can_be_read() {
        let archived = Decision::Archived { storage_class: "GLACIER".to_owned() };
        let class = Some("GLACIER");
        assert_eq!(decided(None, class, None, false), archived);
        assert_eq!(decided(None, class, None, true), archived, "it has not failed yet");
        assert_eq!(decided(failed(2, Cause::MayPass), class, None, false), archived);
        assert_eq!(decided(failed(2, Cause::Permanent), class, None, false), Decision::Skip(Skip::FailedBefore));
        assert_eq!(decided(Some(Earlier::Archived), class, None, false), Decision::Skip(Skip::StillArchived));
        assert_eq!(decided(Some(Earlier::Archived), class, None, true), Decision::Retry { failures: 0 });
        assert_eq!(decided(Some(Earlier::Archived), None, None, false), Decision::Retry { failures: 0 });
        assert_eq!(decided(Some(Earlier::Done), class, None, false), Decision::Skip(Skip::Done));
    }

    #[test]
    fn a_video_that_is_back_gets_its_earlier_rows_where_there_are_any() {
        let restored = Decision::Restore { from: "part".to_owned() };
        let deleted = Some(Earlier::Deleted);
        assert_eq!(decided(deleted, None, Some("part"), false), restored);
        assert_eq!(decided(deleted, Some("GLACIER"), Some("part"), false), restored, "nothing of it is read");
        assert_eq!(decided(deleted, None, None, false), Decision::New);
        let archived = Decision::Archived { storage_class: "GLACIER".to_owned() };
        assert_eq!(decided(deleted, Some("GLACIER"), None, false), archived);
        assert_eq!(decided(None, None, Some("part"), false), Decision::New, "it was not deleted");
    }
}
