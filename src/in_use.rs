//! Which rows of `videos` are in use, and which files hold them, read from the store: `prune` and `compact` go by it.
//! `tables/current.rs` decides what is in use.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::run::{RUNS_PREFIX, RunId, RunKind, RunRecord, record, summary};
use crate::store::{ObjectMeta, Store};
use crate::tables::Table;
use crate::tables::current::{Age, HistoryRow, RowKind, TableSet, in_use};
use crate::tables::read::{optional_value, read_videos, text_column, time_column, value};

/// How long a run is left alone after it ended: it may still be used in ways that the store does not show.
const LEFT_ALONE: TimeDelta = TimeDelta::days(1);

/// Summaries read at the same time.
const READS_MAX: usize = 16;

/// The columns that [`Rows`] are made of. `uri` may be read too.
pub(crate) const COLUMNS: [&str; 6] =
    ["video_id", "status", "indexed_at", "actions_model", "persons_model", "fingerprint"];

/// The rows of `videos`, 40 bytes each, sorted by video and time.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) files: Vec<VideosFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct VideosFile {
    pub(crate) object: ObjectMeta,
    /// The run that the file's name says.
    pub(crate) run: Option<RunId>,
    /// Of its first video; empty if `uri` was not read.
    pub(crate) first_uri: String,
}

/// The 128 bits of a `video_id`. Two halves, because the alignment of `u128` would make each [`Row`] 8 bytes larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VideoId([u64; 2]);

impl VideoId {
    /// Parses 32 hex digits.
    pub(crate) fn parse(id: &str) -> Result<Self, String> {
        let bits = u128::from_str_radix(id, 16).map_err(|error| format!("the video id {id:?}: {error}"))?;
        Ok(Self([(bits >> 64) as u64, bits as u64]))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) video_id: VideoId,
    /// In microseconds of the Unix epoch.
    pub(crate) indexed_at: i64,
    /// Position in [`Rows::files`].
    pub(crate) file: u32,
    /// A hash.
    fingerprint: u32,
    pub(crate) kind: RowKind,
    /// See [`in_use`].
    pub(crate) used: TableSet,
}

const _: () = assert!(size_of::<Row>() == 40, "an index may have millions");

impl Row {
    /// The row as the rule of `tables/current.rs` takes it. The run is that of the row's file.
    pub(crate) fn of_history<'a>(&self, files: &'a [VideosFile]) -> HistoryRow<'a> {
        let run_id = files[self.file as usize].run.as_ref().map_or("", RunId::as_str);
        let age = Age { indexed_at: self.indexed_at, run_id };
        HistoryRow { age, kind: self.kind, fingerprint: self.fingerprint }
    }
}

impl Rows {
    /// Reads the table. Errors about its contents get `hint`.
    ///
    /// # Errors
    /// The output refused, or the table cannot be read.
    pub(crate) async fn read<const N: usize>(output: &dyn Store, columns: [&str; N], hint: &str) -> Result<Self> {
        let mut rows = Self::default();
        read_videos(output, columns, hint, |file, batch| rows.add(file, batch)).await?;
        rows.rows.sort_unstable_by_key(|row| (row.video_id, row.indexed_at));
        let mut history = Vec::new();
        for video in rows.rows.chunk_by_mut(|a, b| a.video_id == b.video_id) {
            history.clear();
            history.extend(video.iter().map(|row| row.of_history(&rows.files)));
            video.iter_mut().zip(in_use(&history)).for_each(|(row, used)| row.used = used);
        }
        Ok(rows)
    }

    /// The positions of all rows of a video.
    pub(crate) fn of_video(&self, id: VideoId) -> Range<usize> {
        let from = self.rows.partition_point(|row| row.video_id < id);
        from..from + self.rows[from..].iter().take_while(|row| row.video_id == id).count()
    }

    fn add(&mut self, file: &ObjectMeta, batch: &RecordBatch) -> Result<(), String> {
        if self.files.last().is_none_or(|last| last.object != *file) {
            let uris = batch.column_by_name("uri").map(|_| text_column(batch, "uri")).transpose()?;
            let first_uri = uris.filter(|uris| !uris.is_empty()).map(|uris| value(&uris, 0).to_owned());
            self.files.push(VideosFile {
                object: file.clone(),
                run: place(Table::Videos, &file.key).map(|(_, run)| run),
                first_uri: first_uri.unwrap_or_default(),
            });
        }
        let file = u32::try_from(self.files.len() - 1).map_err(|error| error.to_string())?;
        let (ids, statuses) = (text_column(batch, "video_id")?, text_column(batch, "status")?);
        let times = time_column(batch, "indexed_at")?;
        let (actions, persons) = (text_column(batch, "actions_model")?, text_column(batch, "persons_model")?);
        let fingerprints = text_column(batch, "fingerprint")?;
        for row in 0..batch.num_rows() {
            self.rows.push(Row {
                video_id: VideoId::parse(value(&ids, row))?,
                indexed_at: if times.is_null(row) { i64::MIN } else { times.value(row) },
                file,
                fingerprint: hash(value(&fingerprints, row)),
                kind: RowKind::of(value(&statuses, row), optional_value(&actions, row), optional_value(&persons, row)),
                used: TableSet::default(),
            });
        }
        Ok(())
    }
}

fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as u32
}

/// The files of the other tables by their [`place`]. They hold rows of the videos in the `videos` file of the same place.
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

/// The part of a file's key that it shares with the files of other tables about the same videos (partition, run and shard),
/// and its run. None if vidindex did not name the file.
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

/// The runs that were completely sealed more than a day ago. Also the compactions that were interrupted more than a day ago,
/// by their last sign of life: nothing resumes them, because the next compaction merges what they left.
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
                let old = |record: &RunRecord| now - record.created_at > LEFT_ALONE;
                match record.filter(|record| record.kind() == RunKind::Merge && old(record)) {
                    Some(record) => last_sign(output, &run).await?.max(Some(record.created_at)),
                    None => None,
                }
            }
        };
        Ok::<_, Error>(settled_at.is_some_and(|at| now - at > LEFT_ALONE).then_some(run))
    });
    settled.buffered(READS_MAX).try_filter_map(async |run| Ok(run)).try_collect().await
}

/// When the run's state last changed. Attempts change it at every heartbeat.
async fn last_sign(output: &dyn Store, run: &RunId) -> Result<Option<DateTime<Utc>>> {
    let objects = output.list(&format!("{RUNS_PREFIX}{run}/"));
    Ok(objects.try_fold(None, async |last, object| Ok(last.max(Some(object.last_modified)))).await?)
}
