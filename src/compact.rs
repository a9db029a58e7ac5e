//! Compaction: copies the rows that are in use from the small files of finished runs into few large files.
//!
//! A compaction is a run. It commits shards as a worker does, and `seal` publishes them, the files of `videos` last. The copy
//! of a row of `videos` has the compaction's `run_id` and is a microsecond younger than its original. By the rule of the views
//! (`tables/current.rs`), the copies take over when the file with their rows of `videos` is published. Whatever another run
//! indexed since is younger still and wins over them. `prune` removes the old files.
//!
//! All rows of a video and run move together, because views and queries join tables by (video, run). Up to three good rows of
//! a video can be in use, for example if its actions come from one run and its persons from another. Copies of both under one
//! `run_id` would list the video twice. So one run copies the latest good rows, a second run the ones before, a third run the
//! ones before those. Rows that were of one run still are, and rows that were of two runs still are. Rows keep their
//! fingerprint, and later failures are copied too, so that plans skip and retry the same videos as before.
//!
//! Left alone are:
//!
//! - runs that ended less than a day ago or are not sealed completely,
//! - files whose rows in use are large enough,
//! - files whose rows in other tables are not in the files beside them,
//! - the only small file of a partition, unless most of its rows are out of use.
//!
//! Any number of compactions can run at once, and they can be interrupted: the next one publishes what was committed and copies
//! the rest. If two copied the same rows, the copies are equal and equally old. The views show those of the later run, and a
//! compaction a day later merges them.

mod find;
mod merge;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, RecordBatch};
use bytesize::ByteSize;
use chrono::{DateTime, TimeDelta, Utc};
use percent_encoding::percent_decode_str;
use tokio::task::{JoinError, JoinSet};

use crate::error::{Error, Result};
use crate::in_use::{Rows, VideoId};
use crate::job::Job;
use crate::plan::counted;
use crate::run::commit::ShardTotals;
use crate::run::summary::{RunSummary, TableTotals};
use crate::run::{RunId, RunKind, RunRecord, record};
use crate::scratch::Scratch;
use crate::seal;
use crate::store::Store;
use crate::tables::current::RowKind;
use crate::tables::read::{number_column, text_column, value};
use crate::tables::{Provenance, Table, part_name};
use crate::telemetry::Steps;
use crate::work::attempt::Attempt;
use crate::work::commit::{ShardRows, commit};
use crate::work::encode::{PartFile, TableWriter};
pub use find::find;
use find::{Group, Layer};
use merge::{Asked, Input, merge, restamp};

/// Target size of the largest file of a shard. Files of less than half of it are small.
pub const TARGET_BYTES: u64 = 256 << 20;

/// How old an interrupted compaction may be if the next one is to publish what it committed. Far less than the age from which
/// `prune` removes files.
const CATCH_UP: TimeDelta = TimeDelta::hours(12);

/// What can be merged. Nothing is written before [`Compaction::run`].
#[derive(Debug)]
pub struct Compaction {
    rows: Rows,
    /// Of each row; none for rows that are not copied.
    layers: Vec<Option<Layer>>,
    /// By layer.
    runs: [Vec<Group>; Layer::ALL.len()],
}

/// The files before and after a compaction.
#[derive(Debug, Default)]
pub struct Compacted {
    before: BTreeMap<Table, TableTotals>,
    after: BTreeMap<Table, TableTotals>,
}

/// Publishes what compactions of the last hours committed and could not publish before they were interrupted. Older ones stay
/// unpublished: their originals may have been removed since, together with the later rows that hid them.
///
/// # Errors
/// As [`seal::seal`].
pub async fn catch_up(output: &dyn Store, now: DateTime<Utc>) -> Result<()> {
    seal::catch_up(output, RunKind::Merge, now - CATCH_UP).await
}

impl Compaction {
    /// Whether there is nothing to merge.
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(Vec::is_empty)
    }

    /// Merges the files, in up to three runs.
    ///
    /// # Cancel safety
    /// If the future is dropped, the next compaction resumes. The views show the same rows at any time.
    ///
    /// # Errors
    /// The output refused, a file cannot be read or was removed, or the scratch disk is full.
    pub async fn run(self, output: &Arc<dyn Store>, job: &Job) -> Result<Compacted> {
        let this = Arc::new(self);
        let mut compacted = Compacted { before: this.before(), ..Compacted::default() };
        for (layer, groups) in this.runs.iter().enumerate().filter(|(_, groups)| !groups.is_empty()) {
            let shards = u32::try_from(groups.len()).map_err(|_| Error::failed("more than 2^32 shards"))?;
            let videos = groups.iter().map(|group| group.videos).sum();
            let record = RunRecord::merging(job, shards, videos, groups.iter().map(|group| group.bytes).sum());
            record::write_record(&**output, &record).await?;
            let steps = Steps::start("files written", Some(u64::from(shards)));
            let mut tasks = JoinSet::new();
            for shard in 0..shards {
                if tasks.len() >= at_once()
                    && let Some(done) = tasks.join_next().await
                {
                    joined(done)?;
                    steps.step();
                }
                let (this, output, run_id) = (this.clone(), output.clone(), record.run_id.clone());
                tasks.spawn(async move { this.shard(&output, &run_id, layer, shard).await });
            }
            while let Some(done) = tasks.join_next().await {
                joined(done)?;
                steps.step();
            }
            let summary = seal::seal(&**output, record.run_id.as_str(), record.shards, record.created_at).await?;
            if !summary.is_complete() {
                let run_id = &record.run_id;
                return Err(Error::failed(format!(
                    "files of the run {run_id} were removed before they were published"
                ))
                .with_hint("the views show the same as before: compact again"));
            }
            compacted.add(&summary);
        }
        Ok(compacted)
    }

    /// Copies the group of this number and commits the copies.
    async fn shard(&self, output: &Arc<dyn Store>, run_id: &RunId, layer: usize, shard: u32) -> Result<()> {
        let started = Instant::now();
        let group = &self.runs[layer][shard as usize];
        let run_id = run_id.as_str();
        let videos = usize::try_from(group.videos).unwrap_or(usize::MAX);
        let heartbeat = Attempt::begin(output.clone(), run_id, shard, None, videos);
        let attempt = async {
            let scratch = Scratch::new()?;
            let (parts, mut totals) = self.copy(&**output, run_id, shard, group, scratch.path()).await?;
            totals.wall_seconds = started.elapsed().as_secs_f64();
            commit(&**output, run_id, shard, &heartbeat.id, ShardRows::merged(&parts, totals)).await
        };
        match attempt.await {
            Ok(_) => heartbeat.end().await,
            Err(error) => {
                heartbeat.fail(&error.to_string()).await;
                return Err(error);
            }
        }
        tracing::info!(run_id, shard, files = group.sources.len(), videos, "files merged");
        Ok(())
    }

    async fn copy(
        &self,
        output: &dyn Store,
        run_id: &str,
        shard: u32,
        group: &Group,
        scratch: &Path,
    ) -> Result<(Vec<PartFile>, ShardTotals)> {
        let mut totals = ShardTotals::default();
        let mut parts = Vec::new();
        for ((table, directory), inputs) in group.directories(&self.rows) {
            let provenance = provenance(table, directory, run_id, shard);
            let path = scratch.join(format!("{}.parquet", parts.len()));
            let key = format!("{directory}/{}", part_name(run_id, shard));
            let mut writer = TableWriter::create(table, key, path, &provenance)?;
            let takes = |file, video_id, asked| self.takes(group, file, video_id, asked);
            let each = |batch: RecordBatch| {
                count(&mut totals, table, &batch)?;
                writer.write(&restamp(table, &batch, run_id, shard).map_err(|error| Error::failed(error.to_string()))?)
            };
            merge(output, table, &inputs, takes, each).await?;
            parts.push(writer.close(&group.partition)?);
        }
        Ok((parts, totals))
    }

    /// Whether the group copies these rows of a file.
    fn takes(&self, group: &Group, file: u32, video_id: VideoId, asked: Asked) -> bool {
        let of_video = self.rows.of_video(video_id);
        self.rows.rows[of_video.clone()].iter().zip(&self.layers[of_video]).any(|(row, layer)| {
            let wanted = match asked {
                Asked::VideosRow { indexed_at } => row.indexed_at == indexed_at,
                Asked::OtherTable => matches!(row.kind, RowKind::Indexed(_)),
            };
            row.file == file && *layer == Some(group.layer) && wanted
        })
    }

    fn before(&self) -> BTreeMap<Table, TableTotals> {
        let sources = self.runs.iter().flatten().flat_map(|group| &group.sources);
        let files: BTreeMap<_, _> = sources.flat_map(|source| &source.files).map(|(t, f)| (&f.key, (t, f))).collect();
        let mut before = BTreeMap::new();
        for (table, file) in files.into_values() {
            let totals: &mut TableTotals = before.entry(*table).or_default();
            totals.files += 1;
            totals.size_bytes += file.size_bytes;
        }
        before
    }
}

/// Groups that are merged at the same time: each takes a core.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn joined(done: Result<Result<()>, JoinError>) -> Result<()> {
    done.map_err(|error| Error::failed(format!("a merge panicked: {error}")))?
}

impl Group {
    /// The files of each folder, which become one.
    fn directories<'a>(&'a self, rows: &'a Rows) -> BTreeMap<(Table, &'a str), Vec<Input<'a>>> {
        let mut directories: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for source in &self.sources {
            let first_uri = rows.files[source.file as usize].first_uri.as_str();
            for (table, file) in &source.files {
                let Some((directory, _)) = file.key.rsplit_once('/') else { continue };
                let input = Input { file: source.file, key: &file.key, first_uri };
                directories.entry((*table, directory)).or_default().push(input);
            }
        }
        directories
    }
}

/// The metadata of a folder's merged file.
fn provenance(table: Table, directory: &str, run_id: &str, shard: u32) -> Provenance {
    let model = directory.split('/').find_map(|part| part.strip_prefix("model="));
    let model = model.map(|model| percent_decode_str(model).decode_utf8_lossy().into_owned());
    let of = |wanted| model.clone().filter(|_| table == wanted);
    Provenance {
        run_id: run_id.to_owned(),
        shard,
        fingerprint: RunKind::Merge.fingerprint().to_owned(),
        actions_model: of(Table::Actions),
        persons_model: of(Table::Persons),
    }
}

/// Counts the rows into the shard's totals. Seconds of decoding and inference, and failures, belong to the original runs.
fn count(totals: &mut ShardTotals, table: Table, batch: &RecordBatch) -> Result<()> {
    let rows = batch.num_rows() as u64;
    match table {
        Table::Videos => {
            let (statuses, seconds) = (text_column(batch, "status"), number_column(batch, "duration_seconds"));
            let (statuses, seconds) = (statuses.map_err(Error::failed)?, seconds.map_err(Error::failed)?);
            for row in 0..statuses.len() {
                *match value(&statuses, row) {
                    "ok" => &mut totals.videos_ok,
                    "partial" => &mut totals.videos_partial,
                    "deleted" => &mut totals.videos_deleted,
                    _ => &mut totals.videos_failed,
                } += 1;
            }
            totals.video_seconds += seconds.iter().flatten().sum::<f64>();
        }
        Table::Actions => totals.segments += rows,
        Table::Persons => totals.boxes += rows,
        Table::Thumbnails => {}
    }
    Ok(())
}

impl Compacted {
    fn add(&mut self, summary: &RunSummary) {
        for (table, totals) in &summary.tables {
            let after = self.after.entry(*table).or_default();
            after.files += totals.files;
            after.size_bytes += totals.size_bytes;
        }
    }
}

/// What would be merged, for a person. Ends without a newline.
impl fmt::Display for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing to compact: no partition has two small files that are older than a day");
        }
        let mut files: BTreeMap<Table, u64> = BTreeMap::new();
        for group in self.runs.iter().flatten() {
            for (table, _) in group.directories(&self.rows).into_keys() {
                *files.entry(table).or_default() += 1;
            }
        }
        let line = |(table, before): (&Table, &TableTotals)| {
            let into = files.get(table).copied().unwrap_or_default();
            format!("{table}: {}, into {into}", amount(before))
        };
        write!(f, "{}", self.before().iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

/// What was merged into what, for a person. Ends without a newline.
impl fmt::Display for Compacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |(table, before): (&Table, &TableTotals)| {
            let after = self.after.get(table).copied().unwrap_or_default();
            format!("{table}: {}, into {}", amount(before), amount(&after))
        };
        write!(f, "{}", self.before.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

fn amount(totals: &TableTotals) -> String {
    format!("{}, {}", counted(totals.files, "file"), ByteSize(totals.size_bytes).display().iec())
}

#[cfg(test)]
mod tests;
