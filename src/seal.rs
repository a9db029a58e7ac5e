//! Sealing: publishes the committed shards of a run where readers look, writes the run's summary, clears the attempts.
//!
//! May run any number of times, also side by side, and be cut off anywhere: the commit records say what is to be done,
//! every step leaves done what was done, and nothing is cleared before it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::plan::layout;
use crate::run::attempt::{attempted_shard, parts_prefix};
use crate::run::commit::{ShardCommit, ShardTotals, commits_prefix, committed_shard, read_commit};
use crate::run::summary::{RunSummary, SUMMARY_SCHEMA_VERSION, TableTotals, put_summary, read_summary};
use crate::run::{RunId, RunKind, record};
use crate::store::{Store, StoreErrorKind};
use crate::tables::{Table, shard_id};

/// Shards published at the same time, each file by file.
const SHARDS_MAX: usize = 8;

/// Summaries read at the same time.
const READS_MAX: usize = 16;

/// From one look at the commit records to the next, at first; twice as long each time, up to [`LOOK_LAST`].
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_LAST: Duration = Duration::from_secs(30);

/// Keys of one delete: what S3 takes.
const DELETE_KEYS_MAX: usize = 1000;

/// Waits until every shard of the run is committed, `limit` at most: for an engine that knows no "after the tasks".
///
/// # Errors
/// The output refused.
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

/// Publishes every committed shard of the run that has `shards_total` and was planned at `started_at`; says what is missing.
///
/// # Cancel safety
/// Dropped anywhere, it leaves a run that can be sealed again.
///
/// # Errors
/// The output refused, or a commit record cannot be read. A missing shard or file is none: the summary names it.
pub async fn seal(
    output: &dyn Store,
    run_id: &str,
    shards_total: u32,
    started_at: DateTime<Utc>,
) -> Result<RunSummary> {
    let mut sealed = Sealed::new(run_id, shards_total, started_at);
    // A seal beside this one may know more shards than we listed, and write its summary before we write ours. To look
    // once more after writing makes the last summary the fullest, whoever writes it.
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

/// Publishes what earlier runs of this kind committed and no seal has published: a run that was cancelled, seal
/// and all, is not done again but for what is left of it. Runs older than `since` are left as they are.
///
/// # Errors
/// As [`seal`].
pub async fn catch_up(output: &dyn Store, kind: RunKind<'_>, since: DateTime<Utc>) -> Result<()> {
    let runs = record::runs(output).await?;
    // Most are complete, which their summary says; the others are few.
    let unfinished = futures::stream::iter(runs)
        .map(async |run: RunId| {
            let summary = read_summary(output, run.as_str()).await?;
            let complete = summary.as_ref().is_some_and(RunSummary::is_complete);
            Ok::<_, Error>((!complete).then(|| (run, summary.map_or(0, |summary| summary.shards_committed))))
        })
        .buffered(READS_MAX)
        .try_filter_map(async |unfinished| Ok(unfinished))
        .try_collect::<Vec<_>>()
        .await?;
    for (run, published) in unfinished {
        let Some(record) = record::find_record(output, &run).await? else { continue };
        let run_id = run.as_str();
        let committed = Sealed::new(run_id, record.shards, record.created_at).fresh(output).await?.len();
        if record.kind() == kind && record.created_at >= since && committed > published as usize {
            // A merge keeps the columns of the files that it merges.
            if kind != RunKind::Merge && layout::mismatch(&record.job, output).await?.is_some() {
                tracing::warn!(run_id, "not published: its files have other partition columns than the index");
                continue;
            }
            tracing::info!(run_id, committed, shards = record.shards, "publishing what an unfinished run committed");
            seal(output, run_id, record.shards, record.created_at).await?;
        }
    }
    Ok(())
}

/// The shards of a run that are committed, published or not.
#[derive(Debug, Clone)]
pub(crate) struct CommittedShards {
    /// How many they are.
    pub(crate) shards: u32,
    /// The others, ascending.
    pub(crate) missing: Vec<u32>,
    pub(crate) totals: ShardTotals,
    /// When the last of them was committed.
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// Looks at the commit records of the run that has `shards_total`, and changes nothing.
///
/// # Errors
/// The output refused, or a record cannot be read.
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

/// The run as far as this seal has published it. Sums alone: records are dropped as soon as they are published.
struct Sealed<'a> {
    run_id: &'a str,
    shards_total: u32,
    started_at: DateTime<Utc>,
    published: BTreeSet<u32>,
    /// Shards that lack a file: what is left of them is not cleared.
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

    /// The shards that are committed and not published by this seal, ascending.
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
                _ => tracing::warn!(key = record.key, "no commit record of a shard of this run"),
            }
        }
        Ok(fresh)
    }

    /// Publishes the shards; counts them in their order, so that the same shards make the same summary.
    async fn publish(&mut self, output: &dyn Store, shards: BTreeSet<u32>) -> Result<()> {
        let run_id = self.run_id;
        let publish = futures::stream::iter(shards).map(|shard| publish_shard(output, run_id, shard));
        let mut shards = std::pin::pin!(publish.buffered(SHARDS_MAX));
        while let Some(shard) = shards.try_next().await? {
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

    /// Removes what attempts, winners and losers, left of the published shards. Those of other shards may be at work.
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

/// Puts a shard's files where readers look; gives back its record, and the keys of files that are nowhere any more.
/// None where the record was deleted by hand since it was listed.
///
/// The rows of the other tables come before those of the videos: whoever goes by a video's row, as a reader does that
/// asks for a video's latest, and a plan that skips it, finds all its rows there. Where some of those are lost, the videos'
/// stay away.
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
                tracing::warn!(shard, key = part.to, %error, "a committed file is gone");
                lost.push(part.to.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some((record, lost)))
}

#[cfg(test)]
mod tests;
