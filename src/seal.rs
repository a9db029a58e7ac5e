//! Sealing: publishes the committed shards of a run for readers, writes the run's summary, and deletes the files of
//! attempts.
//!
//! `seal` may run any number of times, also concurrently, and may be interrupted at any point. The commit records
//! determine what is to be done, every step is idempotent, and nothing is deleted before it is published.

mod preview;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::plan::layout;
use crate::run::attempt::{attempted_shard, parts_prefix};
use crate::run::commit::{ShardCommit, ShardTotals, commits_prefix, committed_shard, read_commit};
use crate::run::summary::{RunSummary, SUMMARY_SCHEMA_VERSION, TableTotals, Unfinished, put_summary, unfinished};
use crate::run::{RunKind, RunRecord, record};
use crate::store::{Store, StoreErrorKind};
use crate::tables::{Table, shard_id};
use crate::telemetry::Steps;
pub use preview::Preview;

/// Number of shards that are published concurrently, each of them file by file.
const SHARDS_MAX: usize = 32;

/// Delay before the commit records are checked again. It doubles each time, up to [`LOOK_LAST`].
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_LAST: Duration = Duration::from_secs(30);

/// Maximum number of keys in one delete request of S3.
const DELETE_KEYS_MAX: usize = 1000;

/// Waits until every shard of the run is committed, but at most `limit`. For engines without dependencies between jobs.
///
/// # Errors
/// If the output cannot be accessed.
pub async fn wait(output: &dyn Store, run_id: &str, shards_total: u32, limit: Duration) -> Result<()> {
    let nothing_sealed = Sealed::new(run_id, shards_total, DateTime::UNIX_EPOCH);
    let deadline = Instant::now() + limit;
    let mut pause = LOOK_FIRST;
    loop {
        let committed = nothing_sealed.fresh(output).await?.len();
        tracing::debug!(run_id, committed, shards_total, "waiting for the tasks");
        let left = deadline.saturating_duration_since(Instant::now());
        if committed >= shards_total as usize || left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

/// Publishes every committed shard of the run that has `shards_total` shards and was planned at `started_at`. The
/// summary says what is missing.
///
/// # Cancel safety
/// If it is dropped at any point, the run can be sealed again.
///
/// # Errors
/// If the output cannot be accessed or a commit record cannot be read. Missing shards and files are not errors; the
/// summary lists them.
pub async fn seal(
    output: &dyn Store,
    run_id: &str,
    shards_total: u32,
    started_at: DateTime<Utc>,
) -> Result<RunSummary> {
    let mut sealed = Sealed::new(run_id, shards_total, started_at);
    // A concurrent seal may know more shards than this one and write its summary first. Checking again after writing
    // ensures that the last summary is complete, regardless of which seal writes it.
    let mut fresh = sealed.fresh(output).await?;
    let summary = loop {
        sealed.publish(output, fresh).await?;
        let summary = sealed.summary();
        put_summary(output, &summary).await?;
        fresh = sealed.fresh(output).await?;
        if fresh.is_empty() {
            break summary;
        }
    };
    let cleared = sealed.clear(output).await?;
    tracing::info!(
        run_id,
        shards = summary.shards_committed,
        missing = summary.missing.len(),
        lost_parts = summary.lost_parts.len(),
        cleared,
        "run sealed"
    );
    Ok(summary)
}

/// Publishes what earlier runs of this kind committed and no seal has published, so that a run that was cancelled
/// together with its seal is not repeated. Runs older than `since` are ignored.
///
/// # Errors
/// As for [`seal`].
pub async fn catch_up(output: &dyn Store, kind: RunKind<'_>, since: DateTime<Utc>) -> Result<()> {
    let is_wanted = |record: &RunRecord| record.kind() == kind && record.created_at >= since;
    publish_unfinished(output, is_wanted).await.map(drop)
}

/// Publishes what runs of any job committed and no seal has published. Returns a summary for each of them. Runs of `compact`
/// are left to the next one.
///
/// # Errors
/// As for [`seal`].
pub async fn seal_unfinished(output: &dyn Store) -> Result<Vec<RunSummary>> {
    publish_unfinished(output, |record| record.kind() != RunKind::Merge).await
}

async fn publish_unfinished(output: &dyn Store, is_wanted: impl Fn(&RunRecord) -> bool) -> Result<Vec<RunSummary>> {
    let mut summaries = Vec::new();
    for (record, committed) in awaiting(output, is_wanted).await? {
        let (run_id, committed) = (record.run_id.as_str(), committed.len());
        tracing::info!(run_id, committed, shards = record.shards, "publishing what an unfinished run committed");
        summaries.push(seal(output, run_id, record.shards, record.created_at).await?);
    }
    Ok(summaries)
}

/// The wanted runs that committed shards which no seal has published, with all shards that they committed.
async fn awaiting(
    output: &dyn Store,
    is_wanted: impl Fn(&RunRecord) -> bool,
) -> Result<Vec<(RunRecord, BTreeSet<u32>)>> {
    let mut awaiting = Vec::new();
    for Unfinished { id: run, published } in unfinished(output).await? {
        let Some(record) = record::find_record(output, &run).await? else { continue };
        let run_id = run.as_str();
        let committed = Sealed::new(run_id, record.shards, record.created_at).fresh(output).await?;
        if is_wanted(&record) && committed.len() > published as usize {
            // A run of `compact` keeps the columns of the files that it merges.
            if record.kind() != RunKind::Merge && layout::mismatch(&record.job, output).await?.is_some() {
                tracing::warn!(run_id, "not published: its files have partition columns that differ from the index");
                continue;
            }
            awaiting.push((record, committed));
        }
    }
    Ok(awaiting)
}

/// The committed shards of a run, published or not.
#[derive(Debug, Clone)]
pub(crate) struct CommittedShards {
    /// Number of committed shards.
    pub(crate) shards: u32,
    /// Shards that are not committed, in ascending order.
    pub(crate) missing: Vec<u32>,
    pub(crate) totals: ShardTotals,
    /// When the last of them was committed.
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// Reads the commit records of the run that has `shards_total` shards, without changing anything.
///
/// # Errors
/// If the output cannot be accessed or a record cannot be read.
pub(crate) async fn committed(output: &dyn Store, run_id: &str, shards_total: u32) -> Result<CommittedShards> {
    let mut seen = Sealed::new(run_id, shards_total, DateTime::UNIX_EPOCH);
    for shard in seen.fresh(output).await? {
        if let Some(record) = read_commit(output, run_id, shard).await? {
            seen.count(&record, &[]);
        }
    }
    let RunSummary { shards_committed: shards, missing, totals, finished_at, .. } = seen.summary();
    Ok(CommittedShards { shards, missing, totals, finished_at })
}

/// The part of the run that this seal has published. It only keeps sums; records are dropped after they are published.
struct Sealed<'a> {
    run_id: &'a str,
    shards_total: u32,
    started_at: DateTime<Utc>,
    published: BTreeSet<u32>,
    /// Shards that lack a file. Their remaining files are not deleted.
    incomplete: BTreeSet<u32>,
    lost_parts: Vec<String>,
    tables: BTreeMap<Table, TableTotals>,
    totals: ShardTotals,
    finished_at: Option<DateTime<Utc>>,
}

impl<'a> Sealed<'a> {
    fn new(run_id: &'a str, shards_total: u32, started_at: DateTime<Utc>) -> Self {
        Self {
            run_id,
            shards_total,
            started_at,
            published: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            lost_parts: Vec::new(),
            tables: Table::ALL.into_iter().map(|table| (table, TableTotals::default())).collect(),
            totals: ShardTotals::default(),
            finished_at: None,
        }
    }

    /// The shards that are committed but not yet published by this seal, in ascending order.
    async fn fresh(&self, output: &dyn Store) -> Result<BTreeSet<u32>> {
        let mut fresh = BTreeSet::new();
        let mut records = output.list(&commits_prefix(self.run_id));
        while let Some(record) = records.try_next().await? {
            match committed_shard(self.run_id, &record.key) {
                Some(shard) if shard < self.shards_total => {
                    if !self.published.contains(&shard) {
                        fresh.insert(shard);
                    }
                }
                _ => tracing::warn!(key = record.key, "not a commit record of a shard of this run"),
            }
        }
        Ok(fresh)
    }

    /// Publishes the shards. Counts them in order, so that the same shards result in the same summary.
    async fn publish(&mut self, output: &dyn Store, shards: BTreeSet<u32>) -> Result<()> {
        let run_id = self.run_id;
        let steps = Steps::start("shards published", Some(shards.len() as u64));
        let publish = futures::stream::iter(shards).map(|shard| publish_shard(output, run_id, shard));
        let mut shards = std::pin::pin!(publish.buffered(SHARDS_MAX));
        while let Some(shard) = shards.try_next().await? {
            steps.step();
            let Some((record, lost)) = shard else { continue };
            self.count(&record, &lost);
            if !lost.is_empty() {
                self.incomplete.insert(record.shard);
                self.lost_parts.extend(lost);
            }
        }
        Ok(())
    }

    fn count(&mut self, record: &ShardCommit, lost: &[String]) {
        self.published.insert(record.shard);
        for part in record.parts.iter().filter(|part| !lost.contains(&part.to)) {
            let table = self.tables.entry(part.table).or_default();
            table.files += 1;
            table.rows += part.rows;
            table.size_bytes += part.size_bytes;
        }
        self.totals.merge(&record.totals);
        self.finished_at = self.finished_at.max(Some(record.committed_at));
    }

    fn summary(&self) -> RunSummary {
        let missing: Vec<u32> = (0..self.shards_total).filter(|shard| !self.published.contains(shard)).collect();
        RunSummary {
            schema_version: SUMMARY_SCHEMA_VERSION,
            run_id: self.run_id.to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            shards_total: self.shards_total,
            shards_committed: self.shards_total - u32::try_from(missing.len()).unwrap_or(u32::MAX),
            missing,
            lost_parts: self.lost_parts.clone(),
            tables: self.tables.clone(),
            totals: self.totals.clone(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            sealed_at: Utc::now(),
        }
    }

    /// Deletes the files of all attempts at published shards. Attempts at other shards may still be running.
    async fn clear(&self, output: &dyn Store) -> Result<usize> {
        let mut keys = Vec::new();
        let mut parts = output.list(&parts_prefix(self.run_id));
        while let Some(part) = parts.try_next().await? {
            let done = |shard| self.published.contains(&shard) && !self.incomplete.contains(&shard);
            if attempted_shard(self.run_id, &part.key).is_some_and(done) {
                keys.push(part.key);
            }
        }
        for keys in keys.chunks(DELETE_KEYS_MAX) {
            output.delete(keys).await?;
        }
        for shard in self.published.difference(&self.incomplete) {
            output.clear_unfinished(&format!("{}{}/", parts_prefix(self.run_id), shard_id(*shard))).await?;
        }
        Ok(keys.len())
    }
}

/// Publishes a shard's files. Returns its record, and the keys of files that no longer exist anywhere. Returns `None`
/// if the record was deleted by hand after the listing.
///
/// The rows of the other tables are published before those of `videos`. So whoever relies on a video's row, such as a
/// reader of the latest rows or a plan that skips the video, finds all of its rows. If some of those files are lost,
/// the file of `videos` is not published.
async fn publish_shard(output: &dyn Store, run_id: &str, shard: u32) -> Result<Option<(ShardCommit, Vec<String>)>> {
    let Some(record) = read_commit(output, run_id, shard).await? else { return Ok(None) };
    let mut lost = Vec::new();
    let (videos, others): (Vec<_>, Vec<_>) = record.parts.iter().partition(|part| part.table == Table::Videos);
    for part in others.into_iter().chain(videos) {
        if part.table == Table::Videos && lost.iter().any(|key: &String| !key.starts_with("videos/")) {
            lost.push(part.to.clone());
            continue;
        }
        match output.publish(&part.from, &part.to).await {
            Ok(()) => {}
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                tracing::warn!(shard, key = part.to, %error, "a committed file is missing");
                lost.push(part.to.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some((record, lost)))
}

#[cfg(test)]
mod tests;
