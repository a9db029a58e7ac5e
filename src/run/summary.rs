//! `summary.json`: what a run published, and what it lacks.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::RUNS_PREFIX;
use super::commit::ShardTotals;
use crate::error::{Error, Result};
use crate::store::{Store, get_record};
use crate::tables::Table;

/// Version of the summary.
pub const SUMMARY_SCHEMA_VERSION: u32 = 1;

/// `summary.json`: what the seal says of the whole run. The next seal replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// [`SUMMARY_SCHEMA_VERSION`] of whoever wrote it.
    pub schema_version: u32,
    /// The run.
    pub run_id: String,
    /// Of vidindex, as sealed it.
    pub tool_version: String,
    /// Shards of the plan.
    pub shards_total: u32,
    /// Shards committed, and published but for the lost parts.
    pub shards_committed: u32,
    /// Shards that no attempt has committed, ascending.
    pub missing: Vec<u32>,
    /// Files that a commit record names and that are neither with their attempt nor published: somebody removed them. And
    /// the shard's files of `videos` then, which are not published without their rows.
    pub lost_parts: Vec<String>,
    /// What each table gained.
    pub tables: BTreeMap<Table, TableTotals>,
    /// Sums over the committed shards.
    pub totals: ShardTotals,
    /// When the run was planned.
    pub started_at: DateTime<Utc>,
    /// When the last shard so far was committed; null before the first.
    pub finished_at: Option<DateTime<Utc>>,
    /// When this summary was made.
    pub sealed_at: DateTime<Utc>,
}

/// What a table gained by a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableTotals {
    /// Files published.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their lengths in bytes.
    pub size_bytes: u64,
}

impl RunSummary {
    /// Whether every shard is published. If not: do the missing ones, and seal again.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.lost_parts.is_empty()
    }

    /// Whether there is nothing left to wish for: complete, and no video failed or ended early.
    pub fn is_flawless(&self) -> bool {
        self.is_complete() && self.totals.videos_partial + self.totals.videos_failed == 0
    }
}

/// What the last seal said of the run; none before the first.
///
/// # Errors
/// The output refused, or the summary is not this version's.
pub async fn read_summary(output: &dyn Store, run_id: &str) -> Result<Option<RunSummary>> {
    let key = summary_key(run_id);
    let Some(body) = get_record(output, &key).await? else { return Ok(None) };
    serde_json::from_slice(&body).map(Some).map_err(|problem| {
        Error::failed(format!("cannot read the summary {}: {problem}", output.uri(&key)))
            .with_hint(format!("`vidindex seal` with --run {run_id} writes it anew"))
    })
}

/// `_vidindex/runs/<run>/summary.json`.
pub(crate) fn summary_key(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/summary.json")
}

pub(crate) async fn put_summary(output: &dyn Store, summary: &RunSummary) -> Result<()> {
    let key = summary_key(&summary.run_id);
    let body = serde_json::to_vec_pretty(summary)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", output.uri(&key))))?;
    output.put(&key, Bytes::from(body)).await?;
    Ok(())
}
