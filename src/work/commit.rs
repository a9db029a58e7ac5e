//! Committing: a shard's files go up under a name of their attempt's own, then one record, which only the first
//! attempt can put, names the files that count.
//!
//! ```text
//! parts/<shard>/<attempt>/videos/dt=…/part-….parquet     any number of attempts; nobody reads them but the seal
//! shards/<shard>.json                                    put if absent: its attempt won, the others clear theirs
//! ```
//!
//! An attempt may die anywhere: before the record it leaves files that the seal clears, after it the shard is done.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::encode::PartFile;
use crate::error::{Error, Result, VideoErrorKind};
use crate::plan::manifest::RUNS_PREFIX;
use crate::store::{PutNew, Store, StoreErrorKind, get_record};
use crate::tables::{Table, VideoRow, VideoStatus, part_name, shard_id};

/// Version of the commit record.
pub const COMMIT_SCHEMA_VERSION: u32 = 1;

/// Files that go up at the same time; a large one goes up in parts of its own.
const UPLOADS_MAX: usize = 4;

/// Failures told in full, of each kind.
const EXAMPLES_MAX: usize = 5;

/// Names one attempt at a shard among all that ever were.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(String);

impl AttemptId {
    /// A name that no other attempt has: the time in microseconds, and 64 random bits.
    pub fn unique() -> Self {
        // Each RandomState is keyed by the system's randomness, which saves a generator for this one number.
        let random = RandomState::new().hash_one(std::process::id());
        Self(format!("{}Z-{random:016x}", Utc::now().format("%Y%m%dT%H%M%S%6f")))
    }

    /// The name, as it stands in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which attempt the shard's record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This one.
    Ours,
    /// Another, which was first: the shard is done, and this attempt's files are gone again.
    Theirs,
}

/// The shard's commit record, `shards/<shard>.json`: written once, never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardCommit {
    /// [`COMMIT_SCHEMA_VERSION`] of whoever wrote it.
    pub schema_version: u32,
    /// The run.
    pub run_id: String,
    /// The shard, from 0.
    pub shard: u32,
    /// The attempt that won.
    pub attempt: AttemptId,
    /// Its files. None where the shard has no videos.
    pub parts: Vec<CommittedPart>,
    /// What they hold, and what they cost.
    pub totals: ShardTotals,
    /// Of vidindex.
    pub tool_version: String,
    /// The machine that did the work, where it knows its name.
    pub host: Option<String>,
    /// By that machine's clock.
    pub committed_at: DateTime<Utc>,
}

/// One file of a committed shard. Keys are relative to the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedPart {
    /// Whose rows it holds.
    pub table: Table,
    /// Where the attempt left it.
    pub from: String,
    /// Where readers will find it.
    pub to: String,
    /// Rows in it.
    pub rows: u64,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// Sums over videos: of a shard, or of all shards of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardTotals {
    /// Videos indexed from beginning to end.
    pub videos_ok: u64,
    /// Videos indexed as far as they could be read.
    pub videos_partial: u64,
    /// Videos not indexed.
    pub videos_failed: u64,
    /// Videos that were found gone from the input.
    #[serde(default)]
    pub videos_deleted: u64,
    /// What went wrong with the partial and failed ones.
    pub failures: BTreeMap<VideoErrorKind, Failures>,
    /// Rows of the actions table.
    pub segments: u64,
    /// Rows of the persons table.
    pub boxes: u64,
    /// Frames that came out of the decoder.
    pub frames_decoded: u64,
    /// Playing time of the videos, where it is known.
    pub video_seconds: f64,
    /// Seconds that decoder processes took, summed over those that ran side by side.
    pub decode_seconds: f64,
    /// Seconds that the models took.
    pub inference_seconds: f64,
    /// Seconds from a shard's beginning to its commit, summed over shards. The worker sets it.
    pub wall_seconds: f64,
}

/// The videos that one kind of error befell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub videos: u64,
    /// The first few of them.
    pub examples: Vec<Failure>,
}

/// A video that could not be indexed, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its address.
    pub uri: String,
    /// What was seen.
    pub message: String,
}

impl ShardTotals {
    /// Counts a video in, from the row that was written of it.
    pub fn add(&mut self, video: &VideoRow) {
        match video.status {
            VideoStatus::Ok => self.videos_ok += 1,
            VideoStatus::Partial => self.videos_partial += 1,
            VideoStatus::Failed => self.videos_failed += 1,
            VideoStatus::Deleted => self.videos_deleted += 1,
        }
        if let Some(kind) = video.error_kind {
            let message = video.error_message.clone().unwrap_or_default();
            let failures = self.failures.entry(kind).or_default();
            failures.add(1, [Failure { uri: video.uri.to_string(), message }]);
        }
        self.segments += count(video.segments);
        self.boxes += count(video.boxes);
        self.frames_decoded += count(video.frames_decoded);
        self.video_seconds += video.duration_seconds.unwrap_or(0.0);
        self.decode_seconds += video.decode_seconds;
        self.inference_seconds += video.inference_seconds;
    }

    /// Counts another shard's in.
    pub fn merge(&mut self, other: &Self) {
        self.videos_ok += other.videos_ok;
        self.videos_partial += other.videos_partial;
        self.videos_failed += other.videos_failed;
        self.videos_deleted += other.videos_deleted;
        for (kind, failures) in &other.failures {
            self.failures.entry(*kind).or_default().add(failures.videos, failures.examples.iter().cloned());
        }
        self.segments += other.segments;
        self.boxes += other.boxes;
        self.frames_decoded += other.frames_decoded;
        self.video_seconds += other.video_seconds;
        self.decode_seconds += other.decode_seconds;
        self.inference_seconds += other.inference_seconds;
        self.wall_seconds += other.wall_seconds;
    }

    /// Videos by status: ok, partial, failed, deleted.
    pub fn by_status(&self) -> [u64; 4] {
        [self.videos_ok, self.videos_partial, self.videos_failed, self.videos_deleted]
    }

    /// Videos of every status.
    pub fn videos(&self) -> u64 {
        self.by_status().iter().sum()
    }
}

impl Failures {
    fn add(&mut self, videos: u64, examples: impl IntoIterator<Item = Failure>) {
        self.videos += videos;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(examples.into_iter().take(room));
    }
}

/// Rows count what there is: never less than nothing.
fn count(rows: i64) -> u64 {
    rows.max(0).cast_unsigned()
}

/// Uploads an attempt's files, and puts the record that makes them the shard's, unless another attempt's is there.
///
/// To be called again with the same arguments after an error (the record may or may not be there by then): it then
/// says which attempt won, or goes on.
///
/// # Cancel safety
/// Dropped anywhere, it leaves the shard committed or not, and at most files that the seal clears.
///
/// # Errors
/// The output refused, a scratch file is gone, or the record of another attempt cannot be read.
pub async fn commit(
    output: &dyn Store,
    run_id: &str,
    shard: u32,
    attempt: &AttemptId,
    parts: &[PartFile],
    totals: ShardTotals,
) -> Result<Committed> {
    let prefix = attempt_prefix(run_id, shard, attempt);
    let parts: Vec<(&PartFile, CommittedPart)> =
        parts.iter().map(|part| (part, committed_part(&prefix, part))).collect();
    // A worker that slept through another's attempt need not upload a thing.
    if let Some(record) = read_commit(output, run_id, shard).await? {
        return Ok(settle(output, attempt, &record, &parts).await);
    }

    let uploads: Vec<_> = parts.iter().map(|(file, part)| output.put_file(&part.from, &file.path)).collect();
    futures::stream::iter(uploads).buffer_unordered(UPLOADS_MAX).try_collect::<()>().await?;

    let record = ShardCommit {
        schema_version: COMMIT_SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        shard,
        attempt: attempt.clone(),
        parts: parts.iter().map(|(_, part)| part.clone()).collect(),
        totals,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host_name(),
        committed_at: Utc::now(),
    };
    let key = commit_key(run_id, shard);
    let body = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", output.uri(&key))))?;
    if output.put_new(&key, Bytes::from(body)).await? == PutNew::Created {
        return Ok(Committed::Ours);
    }
    // "There is one" may mean our own: the store repeats a put whose answer was lost. To clear our files then would
    // lose the shard, so the record is asked, and never the put.
    match read_commit(output, run_id, shard).await? {
        Some(record) => Ok(settle(output, attempt, &record, &parts).await),
        None => Err(Error::failed(format!("{} was there a moment ago, and is gone", output.uri(&key)))
            .with_hint("nothing but vidindex may change what lies below _vidindex/")),
    }
}

/// Whether the shard is done.
///
/// # Errors
/// The output refused.
pub async fn is_committed(output: &dyn Store, run_id: &str, shard: u32) -> Result<bool> {
    match output.head(&commit_key(run_id, shard)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The shard's commit record, where there is one.
///
/// # Errors
/// The output refused, or the record is not this version's or not this shard's.
pub async fn read_commit(output: &dyn Store, run_id: &str, shard: u32) -> Result<Option<ShardCommit>> {
    let key = commit_key(run_id, shard);
    let Some(body) = get_record(output, &key).await? else { return Ok(None) };
    parse_commit(&body, run_id, shard).map(Some).map_err(|problem| {
        Error::failed(format!("cannot go by the commit record {}: {problem}", output.uri(&key)))
            .with_hint("if no newer vidindex wrote it, delete it, do the shard again, then seal")
    })
}

/// `_vidindex/runs/<run>/parts/`: what attempts wrote.
pub(crate) fn parts_prefix(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/parts/")
}

/// `parts/<shard>/<attempt>/`: where one attempt writes.
pub(super) fn attempt_prefix(run_id: &str, shard: u32, attempt: &AttemptId) -> String {
    format!("{}{}/{attempt}/", parts_prefix(run_id), shard_id(shard))
}

/// `_vidindex/runs/<run>/shards/`: the commit records.
pub(crate) fn commits_prefix(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/shards/")
}

/// `shards/<shard>.json`.
fn commit_key(run_id: &str, shard: u32) -> String {
    format!("{}{}.json", commits_prefix(run_id), shard_id(shard))
}

/// The shard whose commit record has this key; none for anything else that lies there.
pub(crate) fn committed_shard(run_id: &str, key: &str) -> Option<u32> {
    let shard = key.strip_prefix(&commits_prefix(run_id))?.strip_suffix(".json")?.parse().ok()?;
    (commit_key(run_id, shard) == key).then_some(shard)
}

/// The shard whose attempt wrote this key.
pub(crate) fn attempted_shard(run_id: &str, key: &str) -> Option<u32> {
    key.strip_prefix(&parts_prefix(run_id))?.split_once('/')?.0.parse().ok()
}

fn committed_part(attempt_prefix: &str, part: &PartFile) -> CommittedPart {
    CommittedPart {
        table: part.table,
        from: format!("{attempt_prefix}{}", part.key),
        to: part.key.clone(),
        rows: part.rows,
        size_bytes: part.size_bytes,
    }
}

/// Says who won. Where it was another, our files go, at best effort: the seal clears what stays.
async fn settle(
    output: &dyn Store,
    attempt: &AttemptId,
    record: &ShardCommit,
    parts: &[(&PartFile, CommittedPart)],
) -> Committed {
    if record.attempt == *attempt {
        return Committed::Ours;
    }
    let keys: Vec<String> = parts.iter().map(|(_, part)| part.from.clone()).collect();
    if let Err(error) = output.delete(&keys).await {
        tracing::warn!(shard = record.shard, attempt = %attempt, %error, "could not clear the files of a late attempt");
    }
    Committed::Theirs
}

/// What a record must be before the seal moves files by its word: this shard's, of keys that this shard may have.
fn parse_commit(body: &[u8], run_id: &str, shard: u32) -> Result<ShardCommit, String> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let version: Version = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if version.schema_version != COMMIT_SCHEMA_VERSION {
        return Err(format!(
            "it has version {}, and this is vidindex {}, which knows version {COMMIT_SCHEMA_VERSION}",
            version.schema_version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let record: ShardCommit = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if record.run_id != run_id || record.shard != shard {
        return Err(format!("it is of shard {} of run {}", record.shard, record.run_id));
    }
    let attempt_prefix = attempt_prefix(run_id, shard, &record.attempt);
    let file_name = part_name(run_id, shard);
    for part in &record.parts {
        let mut parts = part.to.split('/');
        let at_home = parts.next() == Some(part.table.directory())
            && parts.next_back() == Some(file_name.as_str())
            && parts.all(|part| part.contains('='));
        if !at_home || part.from.strip_prefix(&attempt_prefix) != Some(part.to.as_str()) {
            return Err(format!("it moves {} to {}", part.from, part.to));
        }
    }
    Ok(record)
}

/// As the kernel has it; a container's is its own.
pub(super) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
