//! `summary.json`: what a run has published, and what is missing.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::commit::ShardTotals;
use super::{RUNS_PREFIX, RunId, record};
use crate::error::{Error, Result};
use crate::store::{Store, get_record};
use crate::tables::Table;

/// Version of the summary's format.
pub const SUMMARY_SCHEMA_VERSION: u32 = 1;

/// Number of summaries that are read concurrently.
const READS_MAX: usize = 16;

/// `summary.json`: the result of the latest `seal` for the whole run. Each `seal` replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// [`SUMMARY_SCHEMA_VERSION`] of the vidindex that wrote it.
    pub schema_version: u32,
    /// Name of the run.
    pub run_id: String,
    /// Version of vidindex that sealed the run.
    pub tool_version: String,
    /// Number of shards in the plan.
    pub shards_total: u32,
    /// Number of committed shards. They are published, except for the lost parts.
    pub shards_committed: u32,
    /// Shards that are not committed, in ascending order.
    pub missing: Vec<u32>,
    /// Files that a commit record names but that are neither with their attempt nor published, because they were
    /// deleted. If one of a shard's files is lost, its file of `videos` is listed as well, because it is not published
    /// without the other rows.
    pub lost_parts: Vec<String>,
    /// What was added to each table.
    pub tables: BTreeMap<Table, TableTotals>,
    /// Sums over the committed shards.
    pub totals: ShardTotals,
    /// When the run was planned.
    pub started_at: DateTime<Utc>,
    /// When the latest shard was committed; null if none is.
    pub finished_at: Option<DateTime<Utc>>,
    /// When this summary was made.
    pub sealed_at: DateTime<Utc>,
}

/// What a run added to a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableTotals {
    /// Number of files published.
    pub files: u64,
    /// Number of rows in them.
    pub rows: u64,
    /// Their total size, bytes.
    pub size_bytes: u64,
}

impl RunSummary {
    /// Whether every shard is published. If not, run the missing shards and seal again.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.lost_parts.is_empty()
    }

    /// Whether the run is complete and no video failed or was indexed only in part.
    pub fn is_flawless(&self) -> bool {
        self.is_complete() && self.totals.videos_partial + self.totals.videos_failed == 0
    }
}

/// Reads the result of the latest `seal`. `None` if the run was never sealed.
///
/// # Errors
/// If the output cannot be accessed, or the summary has another version.
pub async fn read_summary(output: &dyn Store, run_id: &str) -> Result<Option<RunSummary>> {
    let key = summary_key(run_id);
    let Some(body) = get_record(output, &key).await? else { return Ok(None) };
    serde_json::from_slice(&body).map(Some).map_err(|problem| {
        Error::failed(format!("failed to read the summary {}: {problem}", output.uri(&key)))
            .with_hint(format!("`vidindex seal` with --run {run_id} writes it again"))
    })
}

/// A run that has no complete summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) id: RunId,
    /// Number of shards that were published.
    pub(crate) published: u32,
}

/// The runs of the output that are not completely sealed, oldest first.
pub(crate) async fn unfinished(output: &dyn Store) -> Result<Vec<Unfinished>> {
    // Most runs are complete; only a few are not.
    futures::stream::iter(record::runs(output).await?)
        .map(async |id: RunId| {
            let summary = read_summary(output, id.as_str()).await?;
            let complete = summary.as_ref().is_some_and(RunSummary::is_complete);
            let published = summary.map_or(0, |summary| summary.shards_committed);
            Ok::<_, Error>((!complete).then_some(Unfinished { id, published }))
        })
        .buffered(READS_MAX)
        .try_filter_map(async |unfinished| Ok(unfinished))
        .try_collect()
        .await
}

/// `_vidindex/runs/<run>/summary.json`.
pub(crate) fn summary_key(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/summary.json")
}

pub(crate) async fn put_summary(output: &dyn Store, summary: &RunSummary) -> Result<()> {
    let key = summary_key(&summary.run_id);
    let body = serde_json::to_vec_pretty(summary)
        .map_err(|error| Error::failed(format!("failed to write {}: {error}", output.uri(&key))))?;
    output.put(&key, Bytes::from(body)).await?;
    Ok(())
}
