//! Which rows of `videos` are in use, by the `current_*` views and by plans, and which files hold them: what `prune` and
//! `compact` go by.
//!
//! A view goes by the rows of `videos` (`schemas/duckdb.sql`): of each video the latest row that did not fail, the latest
//! such with actions, and the latest such with persons; a row that says that the video was deleted ends all three.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::run::{RUNS_PREFIX, RunId, record, summary};
use crate::store::{ObjectMeta, Store};
use crate::tables::read::{read_videos, text_column, time_column, value};
use crate::tables::{Table, VideoStatus};

/// Runs that were sealed since may be at work in ways that the store does not show.
const LEFT_ALONE: TimeDelta = TimeDelta::days(1);

/// Summaries read at the same time.
const READS_MAX: usize = 16;

/// The columns that [`Rows`] are made of; `uri` may be among them too.
pub(crate) const COLUMNS: [&str; 6] =
    ["video_id", "status", "indexed_at", "actions_model", "persons_model", "fingerprint"];

/// The rows of `videos`, 40 bytes each, by video and time.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) files: Vec<VideosFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct VideosFile {
    pub(crate) object: ObjectMeta,
    /// Of its first video; empty where `uri` was not read.
    pub(crate) first_uri: String,
}

/// The 128 bits of a `video_id`.
pub(crate) type VideoId = [u64; 2];

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) video_id: VideoId,
    /// Microseconds of the Unix epoch.
    pub(crate) indexed_at: i64,
    /// Position in [`Rows::files`].
    pub(crate) file: u32,
    /// A hash.
    fingerprint: u32,
    pub(crate) kind: Kind,
    actions: bool,
    persons: bool,
    /// The tables whose rows of this video and run are in use. The row itself is one of `videos`.
    pub(crate) used: Tables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    Indexed,
    Deleted,
}

/// A set of tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tables(u8);

impl Tables {
    fn insert(&mut self, table: Table) {
        self.0 |= 1 << table as u8;
    }

    pub(crate) fn add(&mut self, tables: Self) {
        self.0 |= tables.0;
    }

    pub(crate) fn contains(self, table: Table) -> bool {
        self.0 & 1 << table as u8 != 0
    }
}

impl Rows {
    /// Reads the table. What is wrong with it is told with `hint`.
    ///
    /// # Errors
    /// The output refused, or the table cannot be read.
    pub(crate) async fn read<const N: usize>(output: &dyn Store, columns: [&str; N], hint: &str) -> Result<Self> {
        let mut rows = Self::default();
        read_videos(output, columns, hint, |file, batch| rows.add(file, batch)).await?;
        rows.rows.sort_unstable_by_key(|row| (row.video_id, row.indexed_at));
        rows.rows.chunk_by_mut(|a, b| a.video_id == b.video_id).for_each(find_used);
        Ok(rows)
    }

    fn add(&mut self, file: &ObjectMeta, batch: &RecordBatch) -> Result<(), String> {
        if self.files.last().is_none_or(|last| last.object != *file) {
            let uris = batch.column_by_name("uri").map(|_| text_column(batch, "uri")).transpose()?;
            let first_uri = uris.filter(|uris| !uris.is_empty()).map(|uris| value(&uris, 0).to_owned());
            self.files.push(VideosFile { object: file.clone(), first_uri: first_uri.unwrap_or_default() });
        }
        let file = u32::try_from(self.files.len() - 1).map_err(|error| error.to_string())?;
        let (ids, statuses) = (text_column(batch, "video_id")?, text_column(batch, "status")?);
        let times = time_column(batch, "indexed_at")?;
        let (actions, persons) = (text_column(batch, "actions_model")?, text_column(batch, "persons_model")?);
        let fingerprints = text_column(batch, "fingerprint")?;
        for row in 0..batch.num_rows() {
            let status = value(&statuses, row);
            let kind = match status {
                _ if status == VideoStatus::Failed.as_str() => Kind::Failed,
                _ if status == VideoStatus::Deleted.as_str() => Kind::Deleted,
                _ => Kind::Indexed,
            };
            self.rows.push(Row {
                video_id: parse_id(value(&ids, row))?,
                indexed_at: if times.is_null(row) { i64::MIN } else { times.value(row) },
                file,
                fingerprint: hash(value(&fingerprints, row)),
                kind,
                actions: kind == Kind::Deleted || (kind == Kind::Indexed && actions.is_valid(row)),
                persons: kind == Kind::Deleted || (kind == Kind::Indexed && persons.is_valid(row)),
                used: Tables::default(),
            });
        }
        Ok(())
    }
}

/// From its 32 hex digits.
pub(crate) fn parse_id(id: &str) -> Result<VideoId, String> {
    let bits = u128::from_str_radix(id, 16).map_err(|error| format!("the video id {id:?}: {error}"))?;
    Ok([(bits >> 64) as u64, bits as u64])
}

fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as u32
}

/// Of all rows of a video.
fn find_used(video: &mut [Row]) {
    let latest = |of: fn(&Row) -> bool| video.iter().filter(|row| of(row)).map(|row| row.indexed_at).max();
    let good = latest(|row| row.kind != Kind::Failed);
    let (actions, persons) = (latest(|row| row.actions), latest(|row| row.persons));
    let failures: Vec<_> =
        video.iter().filter(|row| row.kind == Kind::Failed).map(|row| (row.fingerprint, row.indexed_at)).collect();
    let alone = video.len() == 1;
    for row in video {
        let superseded = || failures.iter().any(|(of, at)| *of == row.fingerprint && *at > row.indexed_at);
        let at = Some(row.indexed_at);
        let mut used = Tables::default();
        match row.kind {
            // It outlives what it hides, which goes first.
            Kind::Deleted if [good, actions, persons].contains(&at) && !alone => used.insert(Table::Videos),
            Kind::Deleted => {}
            // The last failure since counts: by it a plan of its fingerprint knows not to try again.
            Kind::Failed if at >= good && !superseded() => used.insert(Table::Videos),
            Kind::Failed => {}
            Kind::Indexed => {
                let uses = [
                    (at == good, Table::Thumbnails),
                    (row.actions && at == actions, Table::Actions),
                    (row.persons && at == persons, Table::Persons),
                ];
                for (_, table) in uses.into_iter().filter(|(uses, _)| *uses) {
                    used.insert(Table::Videos);
                    used.insert(table);
                }
            }
        }
        row.used = used;
    }
}

/// The files of the other tables, by their [`place`]: they hold the rows of the videos whose own lie in the file of
/// `videos` of the same place.
///
/// # Errors
/// The output refused.
pub(crate) async fn files_beside(output: &dyn Store) -> Result<HashMap<String, Vec<(Table, ObjectMeta)>>> {
    let mut beside: HashMap<String, Vec<(Table, ObjectMeta)>> = HashMap::new();
    for table in [Table::Actions, Table::Persons, Table::Thumbnails] {
        let mut objects = output.list(&format!("{table}/"));
        while let Some(object) = objects.try_next().await? {
            if let Some((place, _)) = place(table, &object.key) {
                beside.entry(place.to_owned()).or_default().push((table, object));
            }
        }
    }
    Ok(beside)
}

/// Of a table's file, what it shares with those of the other tables that hold the same videos (partition, run and shard),
/// and its run. None for what vidindex did not name.
pub(crate) fn place(table: Table, key: &str) -> Option<(&str, RunId)> {
    let place = key.strip_prefix(table.directory())?.strip_prefix('/')?;
    let place = if table.has_model() { place.strip_prefix("model=")?.split_once('/')?.1 } else { place };
    Some((place, run_of(place)?))
}

/// The run of a [`place`].
pub(crate) fn run_of(place: &str) -> Option<RunId> {
    let name = place.rsplit('/').next()?.strip_prefix("part-")?.strip_suffix(".parquet")?;
    let (run, shard) = name.rsplit_once('-')?;
    shard.parse::<u32>().ok()?;
    run.parse().ok()
}

/// The runs that were sealed whole a day ago, and those that merged files and were cut off a day ago, by their last sign of
/// life: these are never resumed, as another compaction merges what they left.
///
/// # Errors
/// The output refused.
pub(crate) async fn settled_runs(output: &dyn Store, now: DateTime<Utc>) -> Result<BTreeSet<RunId>> {
    let runs = futures::stream::iter(record::runs(output).await?);
    let settled = runs.map(async |run| {
        let settled_at = match summary::read_summary(output, run.as_str()).await? {
            Some(summary) if summary.is_complete() => Some(summary.sealed_at),
            _ => {
                let record = record::find_record(output, &run).await?;
                match record.filter(|record| record.merges_files() && now - record.created_at > LEFT_ALONE) {
                    Some(record) => last_sign(output, &run).await?.max(Some(record.created_at)),
                    None => None,
                }
            }
        };
        Ok::<_, Error>(settled_at.is_some_and(|at| now - at > LEFT_ALONE).then_some(run))
    });
    settled.buffered(READS_MAX).try_filter_map(async |run| Ok(run)).try_collect().await
}

/// When the run's state last changed: an attempt at work says so all the while.
async fn last_sign(output: &dyn Store, run: &RunId) -> Result<Option<DateTime<Utc>>> {
    let objects = output.list(&format!("{RUNS_PREFIX}{run}/"));
    Ok(objects.try_fold(None, async |last, object| Ok(last.max(Some(object.last_modified)))).await?)
}
