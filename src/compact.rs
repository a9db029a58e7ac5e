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

mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, RecordBatch};
use bytesize::ByteSize;
use chrono::{DateTime, TimeDelta, Utc};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::in_use::{self, Row, Rows, VideoId, place};
use crate::job::Job;
use crate::plan::counted;
use crate::run::commit::ShardTotals;
use crate::run::summary::{RunSummary, TableTotals};
use crate::run::{RunKind, RunRecord, record};
use crate::scratch::Scratch;
use crate::seal;
use crate::store::{ObjectMeta, Store};
use crate::tables::current::{RowKind, TableSet, copied_at};
use crate::tables::read::{number_column, text_column, value};
use crate::tables::{Provenance, Table, part_name};
use crate::work::attempt::Attempt;
use crate::work::commit::commit;
use crate::work::encode::{PartFile, TableWriter};
use merge::{Asked, Input, merge, restamp};

/// Target size of the largest file of a shard. Files of less than half of it are small.
pub const TARGET_BYTES: u64 = 256 << 20;

/// How old an interrupted compaction may be if the next one is to publish what it committed. Far less than the age from which
/// `prune` removes files.
const CATCH_UP: TimeDelta = TimeDelta::hours(12);

/// Which of the compaction's runs copies a row: its position, from the latest, among the good rows of its video in use. They
/// are three at most: the latest, the latest with actions, the latest with persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    First,
    Second,
    Third,
}

impl Layer {
    const ALL: [Self; 3] = [Self::First, Self::Second, Self::Third];
}

const COLUMNS: [&str; 7] = {
    let [id, status, at, actions, persons, fingerprint] = in_use::COLUMNS;
    [id, status, at, actions, persons, fingerprint, "uri"]
};

/// What can be merged. Nothing is written before [`Compaction::run`].
#[derive(Debug)]
pub struct Compaction {
    rows: Rows,
    /// Of each row; none for rows that are not copied.
    layers: Vec<Option<Layer>>,
    /// By layer.
    runs: [Vec<Group>; Layer::ALL.len()],
}

/// Files of one partition that become one file of each table and model.
#[derive(Debug)]
struct Group {
    layer: Layer,
    partition: String,
    sources: Vec<Source>,
    /// Rows to be copied.
    videos: u64,
    /// Of the rows in use in each source's largest file.
    bytes: u64,
}

/// The files of one shard of an earlier run in one partition.
#[derive(Debug, Clone)]
struct Source {
    /// Position in [`Rows::files`].
    file: u32,
    files: Vec<(Table, ObjectMeta)>,
    /// Rows to be copied.
    videos: u64,
    bytes: u64,
    alone: Alone,
}

/// What happens to a source that no other can be merged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// It stays as it is.
    Kept,
    /// It is copied nevertheless: most of its rows are out of use, or another file has some of them too.
    Rewritten,
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

/// Finds what can be merged in the output at the time `now`, into files of about `target_bytes` at most.
///
/// # Errors
/// The output refused, or its `videos` table cannot be read.
pub async fn find(output: &dyn Store, now: DateTime<Utc>, target_bytes: u64) -> Result<Compaction> {
    let settled = in_use::settled_runs(output, now).await?;
    let rows = Rows::read(output, COLUMNS, "nothing was merged: repair the file or move it away").await?;
    let (layers, twice) = layers(&rows);
    let mut counts = vec![([(0_u64, TableSet::default()); Layer::ALL.len()], 0_u64); rows.files.len()];
    for (row, layer) in rows.rows.iter().zip(&layers) {
        let (of_layer, all) = &mut counts[row.file as usize];
        *all += 1;
        if let Some(layer) = layer {
            let (count, used) = &mut of_layer[*layer as usize];
            *count += 1;
            used.extend(row.used);
        }
    }

    let beside = in_use::files_beside(output).await?;
    let mut runs: [Vec<Group>; Layer::ALL.len()] = Default::default();
    for (layer, groups) in Layer::ALL.into_iter().zip(&mut runs) {
        let mut partitions: BTreeMap<&str, Vec<Source>> = BTreeMap::new();
        for (file, (videos, (of_layer, all))) in (0..).zip(rows.files.iter().zip(&counts)) {
            let (count, used) = of_layer[layer as usize];
            let Some((place, run)) = place(Table::Videos, &videos.object.key) else { continue };
            let Some((partition, _)) = place.rsplit_once('/') else { continue };
            if count == 0 || !settled.contains(&run) {
                continue;
            }
            let mut files = vec![(Table::Videos, videos.object.clone())];
            files.extend(beside.get(place).into_iter().flatten().cloned());
            // Somebody moved the rows into other files, where views find them by their run. A copy without them would hide
            // them.
            let has = |table: &Table| files.iter().any(|(of, _)| of == table);
            if [Table::Actions, Table::Persons].iter().any(|table| used.contains(*table) && !has(table)) {
                continue;
            }
            let largest = files.iter().map(|(_, file)| file.size_bytes).max().unwrap_or_default();
            let bytes = u64::try_from(u128::from(largest) * u128::from(count) / u128::from(*all)).unwrap_or(u64::MAX);
            let twice = twice.contains(&file);
            if bytes < target_bytes / 2 || twice {
                let alone = if twice || count * 2 < *all { Alone::Rewritten } else { Alone::Kept };
                let source = Source { file, files, videos: count, bytes, alone };
                partitions.entry(partition).or_default().push(source);
            }
        }
        for (partition, mut sources) in partitions {
            sources.sort_by_key(|source| &rows.files[source.file as usize].first_uri);
            let new = || Group { layer, partition: partition.to_owned(), sources: Vec::new(), videos: 0, bytes: 0 };
            groups.extend(group(sources, target_bytes, new));
        }
    }
    Ok(Compaction { rows, layers, runs })
}

/// Fills one file after the other, and drops groups that are not worth it.
fn group(sources: Vec<Source>, target_bytes: u64, new: impl Fn() -> Group) -> impl Iterator<Item = Group> {
    let mut groups: Vec<Group> = Vec::new();
    for source in sources {
        let full = |group: &Group| group.bytes + source.bytes > target_bytes;
        if groups.last().is_none_or(full) {
            groups.push(new());
        }
        if let Some(group) = groups.last_mut() {
            group.videos += source.videos;
            group.bytes += source.bytes;
            group.sources.push(source);
        }
    }
    groups
        .into_iter()
        .filter(|group| group.sources.len() > 1 || group.sources.iter().any(|source| source.alone == Alone::Rewritten))
}

/// The layer of each row, and the files that hold rows which another file has too.
fn layers(rows: &Rows) -> (Vec<Option<Layer>>, BTreeSet<u32>) {
    let mut layers = Vec::with_capacity(rows.rows.len());
    let mut twice = BTreeSet::new();
    for video in rows.rows.chunk_by(|a, b| a.video_id == b.video_id) {
        let of_history = |row: &Row| (row.of_history(&rows.files), row.file);
        let in_use: Vec<_> = video.iter().filter(|row| row.used.contains(Table::Videos)).map(of_history).collect();
        for row in video {
            // A copy would be as old as a row that is to win over it.
            let taken = video.iter().any(|other| other.indexed_at == copied_at(row.indexed_at));
            if !row.used.contains(Table::Videos) || taken {
                layers.push(None);
                continue;
            }
            let (own, file) = of_history(row);
            let mut twins = in_use.iter().filter(|(other, _)| other.is_twin_of(&own)).collect::<Vec<_>>();
            if twins.len() > 1 {
                twice.insert(file);
            }
            // Of twins the one is copied that the views show. Only somebody else's copy of a file has the same age.
            twins.sort_unstable_by_key(|(other, file)| (other.age, &rows.files[*file as usize].object.key));
            layers.push(match twins.last() {
                Some((_, last)) if *last != file => None,
                _ if own.is_failure() => Some(Layer::First),
                _ => {
                    let good = in_use.iter().filter(|(other, _)| !other.is_failure());
                    let later = good.map(|(other, _)| other.age.indexed_at).filter(|at| *at > row.indexed_at);
                    Layer::ALL.get(later.collect::<BTreeSet<_>>().len()).copied()
                }
            });
        }
    }
    (layers, twice)
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
    pub async fn run(&self, output: &Arc<dyn Store>, job: &Job) -> Result<Compacted> {
        let mut compacted = Compacted { before: self.before(), ..Compacted::default() };
        for groups in self.runs.iter().filter(|groups| !groups.is_empty()) {
            let shards = u32::try_from(groups.len()).map_err(|_| Error::failed("more than 2^32 shards"))?;
            let videos = groups.iter().map(|group| group.videos).sum();
            let record = RunRecord::merging(job, shards, videos, groups.iter().map(|group| group.bytes).sum());
            record::write_record(&**output, &record).await?;
            for (shard, group) in (0..).zip(groups) {
                self.shard(output, &record, shard, group).await?;
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

    /// Copies a group and commits the copies.
    async fn shard(&self, output: &Arc<dyn Store>, record: &RunRecord, shard: u32, group: &Group) -> Result<()> {
        let started = Instant::now();
        let run_id = record.run_id.as_str();
        let videos = usize::try_from(group.videos).unwrap_or(usize::MAX);
        let heartbeat = Attempt::begin(output.clone(), run_id, shard, videos);
        let attempt = async {
            let scratch = Scratch::new()?;
            let (parts, mut totals) = self.copy(&**output, run_id, shard, group, scratch.path()).await?;
            totals.wall_seconds = started.elapsed().as_secs_f64();
            commit(&**output, run_id, shard, &heartbeat.id, &parts, totals).await
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
        let first = self.rows.rows.partition_point(|row| row.video_id < video_id);
        let video = self.rows.rows[first..].iter().zip(&self.layers[first..]);
        video.take_while(|(row, _)| row.video_id == video_id).any(|(row, layer)| {
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
