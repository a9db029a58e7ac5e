//! Compaction: copies the rows that are in use out of the small files of finished runs into few large ones.
//!
//! A compaction is a run: its shards are committed as a worker's are, and `seal` publishes them, the videos' file last. A
//! copy of a video's row has the compaction's `run_id` and is a microsecond younger than its original. By the rule of the
//! views, that the latest good row of a video wins and that its run's rows in the other tables count, the copies take over
//! at the moment when their videos' file is published; and whatever another run indexed since is younger still, and wins
//! over them. The old files are no longer in use: `prune` removes them.
//!
//! All rows of a video and run move together, as views and queries join tables by (video, run). A video may have several
//! good rows in use: its actions may be one run's, its persons another's. Copies of two of them under one `run_id` would
//! be one video twice; so the latest are copied by one run, those before them by a second, before these by a third. What
//! two tables have of one run stays of one run, and what was of two stays so. A row's fingerprint stays too, and later
//! failures are copied with it: a plan skips and tries again what it did before.
//!
//! Runs that are young or not sealed whole are left alone, as are files that are large for what they hold of rows in use,
//! those whose rows of the other tables lie elsewhere, and a partition's only small file unless most of it is old rows. Any number of compactions may run at once, and be cut
//! off: the next publishes what was committed, and copies the rest. Where two copied the same rows, the copies are equal
//! and equally old: views go by those of the later run, and the next compaction a day later makes them one again.

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

use crate::current::{self, Kind, Row, Rows, Tables, VideoId, place};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::plan::counted;
use crate::run::commit::ShardTotals;
use crate::run::record::{self, MERGES_FILES, RunRecord};
use crate::run::summary::{RunSummary, TableTotals};
use crate::scratch::Scratch;
use crate::seal;
use crate::store::{ObjectMeta, Store};
use crate::tables::read::{number_column, text_column, value};
use crate::tables::{Provenance, Table, part_name};
use crate::work::attempt::Attempt;
use crate::work::commit::commit;
use crate::work::encode::{PartFile, TableWriter};
use merge::{Input, merge, restamp};

/// What the largest table's file of a shard is to be at most. Files of less than half are small.
pub const TARGET_BYTES: u64 = 256 << 20;

/// How old a compaction may be for the next to publish what it left: far less than what `prune` leaves alone.
const CAUGHT_UP: TimeDelta = TimeDelta::hours(12);

/// Good rows of a video that can be in use: the latest, the latest with actions, the latest with persons.
const LAYERS: usize = 3;

/// Of rows that are not copied.
const NO_LAYER: u8 = u8::MAX;

const COLUMNS: [&str; 7] = {
    let [id, status, at, actions, persons, fingerprint] = current::COLUMNS;
    [id, status, at, actions, persons, fingerprint, "uri"]
};

/// What can be merged. Nothing is written before [`Compaction::run`].
#[derive(Debug)]
pub struct Compaction {
    rows: Rows,
    /// Of each row, the position from the latest among its video's good rows in use, which is its run in `runs`.
    layers: Vec<u8>,
    runs: [Vec<Group>; LAYERS],
}

/// Files of one partition that become one of each table and model.
#[derive(Debug)]
struct Group {
    layer: u8,
    partition: String,
    sources: Vec<Source>,
    /// Rows to be copied.
    videos: u64,
    /// Of the largest tables' files, as far as they are in use.
    bytes: u64,
}

/// What a shard of an earlier run left in one partition.
#[derive(Debug, Clone)]
struct Source {
    /// Position in [`Rows::files`].
    file: u32,
    files: Vec<(Table, ObjectMeta)>,
    /// Rows to be copied.
    videos: u64,
    bytes: u64,
    /// Worth a file of its own, however small or large it is.
    anew: bool,
}

/// What was merged, and what became of it.
#[derive(Debug, Default)]
pub struct Compacted {
    before: BTreeMap<Table, TableTotals>,
    after: BTreeMap<Table, TableTotals>,
}

/// Publishes what the compactions of the last hours committed by `now` and did not live to publish. An older one's copies
/// may have lost their originals, and what hid these.
///
/// # Errors
/// As [`seal::seal`].
pub async fn catch_up(output: &dyn Store, now: DateTime<Utc>) -> Result<()> {
    seal::catch_up(output, MERGES_FILES, now - CAUGHT_UP).await
}

/// Looks at what the output holds at `now`, for files of `target_bytes` at most.
///
/// # Errors
/// The output refused, or its `videos` table cannot be read.
pub async fn find(output: &dyn Store, now: DateTime<Utc>, target_bytes: u64) -> Result<Compaction> {
    let settled = current::settled_runs(output, now).await?;
    let rows = Rows::read(output, COLUMNS, "nothing was merged: move the file away, or repair it").await?;
    let (layers, twice) = layers(&rows);
    let mut counts = vec![([(0_u64, Tables::default()); LAYERS], 0_u64); rows.files.len()];
    for (row, layer) in rows.rows.iter().zip(&layers) {
        let (of_layer, all) = &mut counts[row.file as usize];
        *all += 1;
        if let Some((count, used)) = of_layer.get_mut(usize::from(*layer)) {
            *count += 1;
            used.add(row.used);
        }
    }

    let beside = current::files_beside(output).await?;
    let mut runs: [Vec<Group>; LAYERS] = Default::default();
    for (layer, groups) in (0..).zip(&mut runs) {
        let mut partitions: BTreeMap<&str, Vec<Source>> = BTreeMap::new();
        for (file, (videos, (of_layer, all))) in (0..).zip(rows.files.iter().zip(&counts)) {
            let (count, used) = of_layer[usize::from(layer)];
            let Some((place, run)) = place(Table::Videos, &videos.object.key) else { continue };
            let Some((partition, _)) = place.rsplit_once('/') else { continue };
            if count == 0 || !settled.contains(&run) {
                continue;
            }
            let mut files = vec![(Table::Videos, videos.object.clone())];
            files.extend(beside.get(place).into_iter().flatten().cloned());
            // Rows that somebody put into other files are found there by their run: a copy would hide them.
            let has = |table: &Table| files.iter().any(|(of, _)| of == table);
            if [Table::Actions, Table::Persons].iter().any(|table| used.contains(*table) && !has(table)) {
                continue;
            }
            let largest = files.iter().map(|(_, file)| file.size_bytes).max().unwrap_or_default();
            let bytes = u64::try_from(u128::from(largest) * u128::from(count) / u128::from(*all)).unwrap_or(u64::MAX);
            let twice = twice.contains(&file);
            if bytes < target_bytes / 2 || twice {
                let source = Source { file, files, videos: count, bytes, anew: twice || count * 2 < *all };
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

/// Fills one file after the other. What is in its file alone, and may stay there, stays.
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
    groups.into_iter().filter(|group| group.sources.len() > 1 || group.sources.iter().any(|source| source.anew))
}

/// The layer of each row, and the files that hold rows which another has too.
fn layers(rows: &Rows) -> (Vec<u8>, BTreeSet<u32>) {
    let mut layers = Vec::with_capacity(rows.rows.len());
    let mut twice = BTreeSet::new();
    let key = |row: &Row| &rows.files[row.file as usize].object.key;
    for video in rows.rows.chunk_by(|a, b| a.video_id == b.video_id) {
        for row in video {
            let failed = row.kind == Kind::Failed;
            let in_use = || video.iter().filter(|other| other.used.contains(Table::Videos));
            let like = || in_use().filter(|other| (other.kind == Kind::Failed) == failed);
            let equal = || like().filter(|other| other.indexed_at == row.indexed_at);
            // A copy as old as the row that is to win over it would not let it.
            let taken = video.iter().any(|other| row.indexed_at.checked_add(1) == Some(other.indexed_at));
            if !row.used.contains(Table::Videos) || taken {
                layers.push(NO_LAYER);
                continue;
            }
            if equal().nth(1).is_some() {
                twice.insert(row.file);
            }
            layers.push(if equal().any(|other| key(other) > key(row)) {
                NO_LAYER
            } else if failed {
                0
            } else {
                let later = like().map(|other| other.indexed_at).filter(|at| *at > row.indexed_at);
                u8::try_from(later.collect::<BTreeSet<_>>().len()).unwrap_or(NO_LAYER)
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

    /// Merges it, run by run.
    ///
    /// # Cancel safety
    /// Dropped anywhere, the next compaction resumes from what is there; what the views show stays the same.
    ///
    /// # Errors
    /// The output refused, a file cannot be read or is gone, or the scratch disk is full.
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
                    "files of the merging run {run_id} were removed before they were published"
                ))
                .with_hint("the views show what they did: compact again"));
            }
            compacted.add(&summary);
        }
        Ok(compacted)
    }

    /// Copies a group, and commits it.
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
            let takes = |file, video_id, indexed_at| self.takes(group, file, video_id, indexed_at);
            let each = |batch: RecordBatch| {
                count(&mut totals, table, &batch)?;
                writer.write(&restamp(table, &batch, run_id, shard).map_err(|error| Error::failed(error.to_string()))?)
            };
            merge(output, table, &inputs, takes, each).await?;
            parts.push(writer.close(&group.partition)?);
        }
        Ok((parts, totals))
    }

    /// Whether this row of `videos` is copied; without a time, whether the video's rows of another table are.
    fn takes(&self, group: &Group, file: u32, video_id: VideoId, indexed_at: Option<i64>) -> bool {
        let first = self.rows.rows.partition_point(|row| row.video_id < video_id);
        let video = self.rows.rows[first..].iter().zip(&self.layers[first..]);
        video.take_while(|(row, _)| row.video_id == video_id).any(|(row, layer)| {
            let wanted = indexed_at.map_or(row.kind == Kind::Indexed, |at| row.indexed_at == at);
            row.file == file && *layer == group.layer && wanted
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
    /// The files that become one, by their folders.
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

/// Of the merged file of a folder.
fn provenance(table: Table, directory: &str, run_id: &str, shard: u32) -> Provenance {
    let model = directory.split('/').find_map(|part| part.strip_prefix("model="));
    let model = model.map(|model| percent_decode_str(model).decode_utf8_lossy().into_owned());
    let of = |wanted| model.clone().filter(|_| table == wanted);
    Provenance {
        run_id: run_id.to_owned(),
        shard,
        fingerprint: MERGES_FILES.to_owned(),
        actions_model: of(Table::Actions),
        persons_model: of(Table::Persons),
    }
}

/// What the rows hold. They cost nothing but the seconds of merging them, and what failed, failed elsewhere.
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

/// For a person: what would be merged. Ends without a newline.
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

/// For a person: what was merged into what. Ends without a newline.
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
