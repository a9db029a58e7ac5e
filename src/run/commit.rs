//! `shards/<shard>.json`: which attempt won a shard, and which files it wrote.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::RUNS_PREFIX;
use super::attempt::{AttemptId, attempt_prefix, attempted_shard, parts_prefix};
use crate::device::Precision;
use crate::error::{Error, Result, VideoErrorKind};
use crate::store::{ObjectMeta, Store, StoreErrorKind, get_record};
use crate::tables::{Table, VideoRow, part_name, shard_id};
use crate::video_status::{StatusCounts, VideoStatus};

/// Version of the commit record.
pub const COMMIT_SCHEMA_VERSION: u32 = 1;

/// Maximum number of failures that are listed in full, per kind.
const EXAMPLES_MAX: usize = 5;

/// The commit record of a shard, `shards/<shard>.json`. Written once and never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardCommit {
    /// [`COMMIT_SCHEMA_VERSION`] of the vidindex that wrote it.
    pub schema_version: u32,
    /// Name of the run.
    pub run_id: String,
    /// The shard, from 0.
    pub shard: u32,
    /// The attempt that won.
    pub attempt: AttemptId,
    /// Its files. Empty if the shard has no videos.
    pub parts: Vec<CommittedPart>,
    /// Sums over the videos of the shard.
    pub totals: ShardTotals,
    /// Version of vidindex.
    pub tool_version: String,
    /// Host name of the machine that processed the shard, if known.
    pub host: Option<String>,
    /// The device on which the models ran, and the number format in which they computed. `None` if the rows are merged ones,
    /// or an older vidindex wrote the record.
    #[serde(default)]
    pub computed: Option<Computed>,
    /// Time of the commit, by that machine's clock.
    pub committed_at: DateTime<Utc>,
}

/// How the models of a shard ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// The device, as in a job file.
    pub device: String,
    /// The number format.
    pub precision: Precision,
}

/// One file of a committed shard. Keys are relative to the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedPart {
    /// The table that its rows belong to.
    pub table: Table,
    /// The key that the attempt wrote.
    pub from: String,
    /// The key that readers will see.
    pub to: String,
    /// Number of rows.
    pub rows: u64,
    /// Size, bytes.
    pub size_bytes: u64,
}

/// Sums over videos: of a shard, or of all shards of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardTotals {
    /// Number of videos indexed completely.
    pub videos_ok: u64,
    /// Number of videos indexed as far as they could be read.
    pub videos_partial: u64,
    /// Number of videos that could not be indexed.
    pub videos_failed: u64,
    /// Number of videos that were deleted from the input.
    #[serde(default)]
    pub videos_deleted: u64,
    /// Errors of the partial and failed videos, by kind.
    pub failures: BTreeMap<VideoErrorKind, Failures>,
    /// Number of rows in the actions table.
    pub segments: u64,
    /// Number of rows in the persons table.
    pub boxes: u64,
    /// Number of frames that the decoder returned.
    pub frames_decoded: u64,
    /// Sum of the videos' durations, as far as known, seconds.
    pub video_seconds: f64,
    /// Seconds of decoding, summed over concurrent decoder processes.
    pub decode_seconds: f64,
    /// Seconds of inference.
    pub inference_seconds: f64,
    /// Seconds from the start of a shard to its commit, summed over shards. The worker sets it.
    pub wall_seconds: f64,
}

/// The videos that failed with one kind of error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Number of videos.
    pub videos: u64,
    /// The first few failures.
    pub examples: Vec<Failure>,
}

/// A video that could not be indexed completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The video's URI.
    pub uri: String,
    /// The error message.
    pub message: String,
}

impl ShardTotals {
    /// Adds a video, given its row of the videos table.
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

    /// Adds the totals of another shard.
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

    /// Number of videos by status.
    pub fn by_status(&self) -> StatusCounts {
        StatusCounts {
            ok: self.videos_ok,
            partial: self.videos_partial,
            failed: self.videos_failed,
            deleted: self.videos_deleted,
        }
    }

    /// Number of videos, regardless of status.
    pub fn videos(&self) -> u64 {
        self.by_status().total()
    }
}

impl Failures {
    fn add(&mut self, videos: u64, examples: impl IntoIterator<Item = Failure>) {
        self.videos += videos;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(examples.into_iter().take(room));
    }
}

/// Converts a row count. Negative counts, which never occur, become 0.
fn count(rows: i64) -> u64 {
    rows.max(0).cast_unsigned()
}

/// Whether the shard is committed.
///
/// # Errors
/// If the output cannot be accessed.
pub async fn is_committed(output: &dyn Store, run_id: &str, shard: u32) -> Result<bool> {
    match output.head(&commit_key(run_id, shard)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads the shard's commit record, if there is one.
///
/// # Errors
/// If the output cannot be accessed, or the record has another version or belongs to another shard.
pub async fn read_commit(output: &dyn Store, run_id: &str, shard: u32) -> Result<Option<ShardCommit>> {
    let key = commit_key(run_id, shard);
    let Some(body) = get_record(output, &key).await? else { return Ok(None) };
    parse_commit(&body, run_id, shard).map(Some).map_err(|problem| {
        Error::failed(format!("failed to read the commit record {}: {problem}", output.uri(&key)))
            .with_hint("if it was not written by a newer vidindex, delete it, run the shard again, then seal")
    })
}

/// `_vidindex/runs/<run>/shards/`: all commit records of a run.
pub(crate) fn commits_prefix(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/shards/")
}

/// `shards/<shard>.json`.
pub(crate) fn commit_key(run_id: &str, shard: u32) -> String {
    format!("{}{}.json", commits_prefix(run_id), shard_id(shard))
}

/// The shard whose commit record has this key. `None` for any other key.
pub(crate) fn committed_shard(run_id: &str, key: &str) -> Option<u32> {
    let shard = key.strip_prefix(&commits_prefix(run_id))?.strip_suffix(".json")?.parse().ok()?;
    (commit_key(run_id, shard) == key).then_some(shard)
}

/// Lists the files of attempts at shards of the run that are not committed, each with its shard.
///
/// # Errors
/// If the output cannot be accessed.
pub(crate) async fn uncommitted_parts(output: &dyn Store, run_id: &str) -> Result<Vec<(u32, ObjectMeta)>> {
    let commits = output.list(&commits_prefix(run_id));
    let committed: BTreeSet<u32> =
        commits.try_filter_map(async |commit| Ok(committed_shard(run_id, &commit.key))).try_collect().await?;
    let parts = output.list(&parts_prefix(run_id)).try_filter_map(async |part| {
        let shard = attempted_shard(run_id, &part.key).filter(|shard| !committed.contains(shard));
        Ok(shard.map(|shard| (shard, part)))
    });
    Ok(parts.try_collect().await?)
}

/// Validates a record before `seal` moves files because of it: it must belong to this shard and name only keys of this
/// shard.
fn parse_commit(body: &[u8], run_id: &str, shard: u32) -> Result<ShardCommit, String> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let version: Version = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if version.schema_version != COMMIT_SCHEMA_VERSION {
        return Err(format!(
            "it has version {}, but vidindex {} supports version {COMMIT_SCHEMA_VERSION}",
            version.schema_version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let record: ShardCommit = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if record.run_id != run_id || record.shard != shard {
        return Err(format!("it belongs to shard {} of run {}", record.shard, record.run_id));
    }
    let attempt_prefix = attempt_prefix(run_id, shard, &record.attempt);
    let file_name = part_name(run_id, shard);
    for part in &record.parts {
        let mut parts = part.to.split('/');
        let at_home = parts.next() == Some(part.table.directory())
            && parts.next_back() == Some(file_name.as_str())
            && parts.all(|part| part.contains('='));
        if !at_home || part.from.strip_prefix(&attempt_prefix) != Some(part.to.as_str()) {
            return Err(format!("it names the invalid move from {} to {}", part.from, part.to));
        }
    }
    Ok(record)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    const RUN: &str = "20261123T073712123Z-ab12cd";

    #[test]
    fn totals_count_videos_and_list_the_first_failures() {
        let row = |uri: &str, status, error_kind: Option<VideoErrorKind>| VideoRow {
            uri: uri.into(),
            status,
            error_kind,
            error_message: error_kind.map(|kind| format!("{kind} seen")),
            duration_seconds: Some(2.5),
            frames_decoded: 10,
            segments: 2,
            boxes: 3,
            decode_seconds: 0.5,
            inference_seconds: 0.25,
            ..VideoRow::default()
        };
        let mut totals = ShardTotals { wall_seconds: 4.0, ..ShardTotals::default() };
        totals.add(&row("a", VideoStatus::Ok, None));
        totals.add(&row("b", VideoStatus::Partial, Some(VideoErrorKind::Corrupt)));
        for i in 0..7 {
            totals.add(&row(&format!("c{i}"), VideoStatus::Failed, Some(VideoErrorKind::Timeout)));
        }
        let mut run = totals.clone();
        run.merge(&totals);

        assert_eq!((run.videos_ok, run.videos_partial, run.videos_failed, run.videos()), (2, 2, 14, 18));
        assert_eq!((run.segments, run.boxes, run.frames_decoded), (36, 54, 180));
        assert_eq!(
            (run.video_seconds, run.decode_seconds, run.inference_seconds, run.wall_seconds),
            (45.0, 9.0, 4.5, 8.0)
        );
        assert_eq!(run.failures[&VideoErrorKind::Corrupt].examples.len(), 2);
        assert_eq!(run.failures[&VideoErrorKind::Timeout].videos, 14);
        assert_eq!(run.failures[&VideoErrorKind::Timeout].examples.len(), EXAMPLES_MAX);
        assert_eq!(
            run.failures[&VideoErrorKind::Timeout].examples[0],
            Failure { uri: "c0".into(), message: "timeout seen".into() }
        );
        let json = serde_json::to_string(&run).unwrap();
        assert!(json.contains("\"timeout\":{\"videos\":14"), "{json}");
        assert_eq!(serde_json::from_str::<ShardTotals>(&json).unwrap(), run);
    }

    #[tokio::test]
    async fn a_record_whose_transfer_always_breaks_off_is_an_outage() {
        let output = MemoryStore::bucket("s3://index/");
        output.insert(&commit_key(RUN, 0), "{");
        match read_commit(&output, RUN, 0).await {
            Err(Error::Store(error)) => assert_eq!(error.kind, StoreErrorKind::Transient),
            read => panic!("{read:?}"),
        }
    }

    #[test]
    fn keys_of_shards_are_distinguished_from_other_files() {
        assert_eq!(committed_shard("r", "_vidindex/runs/r/shards/000012.json"), Some(12));
        assert_eq!(committed_shard("r", "_vidindex/runs/r/shards/1234567.json"), Some(1_234_567));
        for other in [
            "_vidindex/runs/r/shards/12.json",
            "_vidindex/runs/r/shards/.000012.json.tmp",
            "_vidindex/runs/s/shards/000012.json",
        ] {
            assert_eq!(committed_shard("r", other), None, "{other}");
        }
        assert_eq!(attempted_shard("r", "_vidindex/runs/r/parts/000012/a/videos/x.parquet"), Some(12));
        assert_eq!(attempted_shard("r", "_vidindex/runs/r/parts/x"), None);
    }
}
