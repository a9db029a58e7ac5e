//! Videos in archive storage classes: which of them a job would index, and asking the store to restore them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::indexed::{Cause, Earlier, Indexed};
use super::list::{self, ListedObject};
use super::sift::Sift;
use super::{Group, counted, human, scan};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{PlanModels, Todo};
use crate::scratch::Scratch;
use crate::store::{RestoreRequest, Restoring, Store, StoreErrorKind};
use crate::telemetry::Steps;

/// Number of concurrent requests to restore.
const REQUESTS_MAX: usize = 32;

/// Archived videos that a job would index if they could be read.
#[derive(Debug, Default)]
pub(crate) struct Archived {
    /// By storage class.
    classes: BTreeMap<String, Group>,
    /// Keys, and ids of versions if the job asks for them. A hundred bytes a video.
    videos: Vec<(String, Option<String>)>,
}

/// What became of the requests to restore.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Number of videos whose restoration began.
    requested: u64,
    /// Number of videos that were being restored already, or are restored.
    before: u64,
    /// Number of videos that cannot be restored.
    refused: u64,
}

/// Lists the archived videos that the job includes and that are not indexed with its models and settings. What failed for good
/// is left out.
///
/// # Errors
/// As for [`super::plan`].
pub(crate) async fn find(job: &Job, models: &PlanModels, input: &dyn Store, output: &dyn Store) -> Result<Archived> {
    let scratch = Scratch::new()?;
    let sift = Arc::new(Sift::new(&job.input, input, output)?);
    let (scanned, as_of) = scan(job, input, &sift, scratch.path()).await?;
    let mut indexed = Indexed::read(input, output, &job.fingerprint(&models.hashes()), as_of).await?;
    let mut found = Archived::default();
    list::list(&job.input, &sift, scanned, input, |object, _| {
        let ListedObject::Video(video) = object else { return Ok(()) };
        let Todo::MarkArchived { storage_class } = &video.todo else { return Ok(()) };
        let is_settled = match indexed.earlier(&video) {
            Some(Earlier::Done | Earlier::Failed { cause: Cause::Permanent, .. }) => true,
            // Its earlier rows are copied.
            Some(Earlier::Deleted) => indexed.source(&video).is_some(),
            _ => false,
        };
        if !is_settled {
            found.classes.entry(storage_class.clone()).or_default().add(&video.key, video.size_bytes);
            found.videos.push((video.key, video.version_id));
        }
        Ok(())
    })
    .await?;
    Ok(found)
}

impl Archived {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.videos.is_empty()
    }

    /// Asks the input to restore them.
    ///
    /// # Errors
    /// If the input refuses all requests of this kind. An object that cannot be restored is counted, with a warning.
    pub(crate) async fn restore(self, input: &dyn Store, request: RestoreRequest) -> Result<Restored> {
        let steps = Steps::start("videos requested", Some(self.videos.len() as u64));
        let ask = async |(key, version_id): (String, Option<String>)| {
            let asked = input.restore(&key, version_id.as_deref(), request).await;
            steps.step();
            match asked {
                Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Archived) => {
                    tracing::warn!("{error}");
                    Ok(None)
                }
                asked => asked.map(Some).map_err(Error::from),
            }
        };
        let mut restored = Restored::default();
        let mut asked = futures::stream::iter(self.videos).map(ask).buffer_unordered(REQUESTS_MAX);
        while let Some(asked) = asked.try_next().await? {
            match asked {
                Some(Restoring::Requested) => restored.requested += 1,
                Some(Restoring::Before) => restored.before += 1,
                None => restored.refused += 1,
            }
        }
        Ok(restored)
    }
}

/// Formats the videos for the terminal: a line per storage class.
impl fmt::Display for Archived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no video of the job is in an archive storage class");
        }
        for (at, (class, group)) in self.classes.iter().enumerate() {
            let line_break = if at > 0 { "\n" } else { "" };
            write!(f, "{line_break}{class:<14}{}, {}", counted(group.count, "video"), human(group.bytes))?;
        }
        Ok(())
    }
}

/// Formats the counts for the terminal.
impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "requested {}", counted(self.requested, "video"))?;
        if self.before > 0 {
            write!(f, ", {} requested before", self.before)?;
        }
        if self.refused > 0 {
            write!(f, ", {} cannot be restored", self.refused)?;
        }
        Ok(())
    }
}
