//! What earlier runs indexed, read from the output's `videos` table: how each video fared, and which videos the input does
//! not hold any more.

use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::current::place;
use crate::error::{Result, VideoErrorKind};
use crate::run::VideoObject;
use crate::store::{ObjectMeta, Store};
use crate::tables::read::{optional, read_videos, text_column, time_column, value, whole_number_column};
use crate::tables::{Table, VideoStatus};

/// Rows that are added before earlier ones of the same videos are dropped.
const ROWS_MIN: usize = 1 << 20;

const COLUMNS: [&str; 10] = [
    "video_id",
    "uri",
    "etag",
    "last_modified",
    "status",
    "error_kind",
    "failures",
    "fingerprint",
    "indexed_at",
    "run_id",
];

const UNREADABLE_HINT: &str = "move the file away, or plan with --reindex, which does not read the table";

/// How an unchanged video fared before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Its rows are there, whole or (`partial`) as far as the video goes.
    Done,
    /// It could not be read to its end, so many times in a row; whether the cause may pass without the file changing.
    Failed { failures: u8, may_pass: bool },
    /// It was archived, and not tried.
    Archived,
    /// It was gone from the input.
    Deleted,
}

/// A video's latest row.
pub(super) struct Latest<'a> {
    /// Relative to the input.
    pub(super) key: &'a str,
    pub(super) etag: &'a str,
    pub(super) size_bytes: u64,
    pub(super) last_modified: DateTime<Utc>,
    /// Whether the input does not hold the video any more.
    pub(super) is_gone: bool,
}

/// Of each video the latest row that counts for this fingerprint, the latest such that is [`Earlier::Done`], and the latest
/// of all, where these differ, each in 40 bytes. Rows of other fingerprints do not count, but for those that say that a video
/// was gone: jobs that share an output would otherwise index everything again in turn.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// What the addresses of the input's videos begin with.
    root: String,
    /// Once read, one to three for each video, by `id` and time.
    rows: Vec<Row>,
    /// How many of `rows` were left when they were last settled.
    settled: usize,
    runs: Vec<String>,
    /// The [`place`]s of the table's files; none for a file that vidindex did not name.
    places: Vec<Option<String>>,
    /// The file that was read last: the last of `places`.
    file: String,
    /// When the listing was made: it may lack videos that changed later.
    as_of: DateTime<Utc>,
}

/// `id` and `etag` are hashes: two videos of one id are indexed in turn with each run, of which there is one chance in
/// 400,000 among ten million.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    id: u64,
    etag: u64,
    /// Microseconds of the Unix epoch.
    time: i64,
    /// Position in `runs`: of two rows of one time, the later run's wins.
    run: u32,
    /// Position in `places`.
    file: u32,
    earlier: Earlier,
    counts: bool,
    /// Whether the listing is recent enough to hold this version of the video.
    listable: bool,
    /// Whether the video was listed. Of the latest row alone.
    seen: bool,
    /// Whether [`Indexed::each_latest`] has passed it on: a copy of a row may be as old as the row.
    passed: bool,
}

impl Indexed {
    /// Reads every Parquet file of the `videos` table. An output without one is an empty index. Videos that changed after
    /// `as_of`, when the listing was made, may be unknown to it.
    pub(super) async fn read(
        input: &dyn Store,
        output: &dyn Store,
        fingerprint: &str,
        as_of: DateTime<Utc>,
    ) -> Result<Self> {
        let mut indexed = Self { root: input.uri(""), as_of, ..Self::default() };
        let add = |file: &ObjectMeta, batch: &RecordBatch| indexed.add_batch(&file.key, batch, fingerprint);
        read_videos(output, COLUMNS, UNREADABLE_HINT, add).await?;
        indexed.settle();
        tracing::debug!(videos = indexed.rows.len(), "read what is indexed");
        Ok(indexed)
    }

    /// The input holds the video. How this very content of it fared, if it was indexed.
    pub(super) fn earlier(&mut self, video: &VideoObject) -> Option<Earlier> {
        let row = self.rows_of(&video.uri)?.iter().rev().find(|row| row.counts)?;
        (row.earlier == Earlier::Deleted || row.etag == hash(&video.etag)).then_some(row.earlier)
    }

    /// The [`place`] of the latest rows of this very content of a video: those that counted before it was deleted.
    pub(super) fn source(&mut self, video: &VideoObject) -> Option<String> {
        let done = |row: &&Row| row.counts && row.earlier == Earlier::Done;
        let row = *self.rows_of(&video.uri)?.iter().rev().find(done)?;
        self.places.get(row.file as usize)?.clone().filter(|_| row.etag == hash(&video.etag))
    }

    /// The input holds this object, which the job leaves out.
    pub(super) fn see(&mut self, uri: &str) {
        let _ = self.rows_of(uri);
    }

    /// The rows of a video that the input holds.
    fn rows_of(&mut self, uri: &str) -> Option<&[Row]> {
        if self.rows.is_empty() {
            return None;
        }
        let id = video_id_bits(uri)?;
        let start = self.rows.partition_point(|row| row.id < id);
        let rows = &mut self.rows[start..];
        let count = rows.iter().take_while(|row| row.id == id).count();
        let rows = &mut rows[..count];
        rows.last_mut()?.seen = true;
        Some(rows)
    }

    /// Whether the listing lacks any video that it should have shown.
    pub(super) fn lacks_any(&self) -> bool {
        let of_one_video = self.rows.chunk_by(|a, b| a.id == b.id);
        of_one_video.filter_map(|rows| rows.last()).any(|row| row.is_expected() && !row.seen)
    }

    /// The latest row of each video that the listing should have shown, in no particular order, read from the table again.
    /// A video whose key is `unlisted` is not known to be gone.
    pub(super) async fn each_latest(
        &mut self,
        output: &dyn Store,
        unlisted: &(dyn Fn(&str) -> bool + Sync),
        mut each: impl FnMut(&Latest<'_>) -> Result<()>,
    ) -> Result<()> {
        self.rows.iter_mut().for_each(|row| row.passed = false);
        let columns = ["video_id", "uri", "etag", "size_bytes", "last_modified", "indexed_at"];
        let mut read = |batch: &RecordBatch| {
            let (ids, uris) = (text_column(batch, "video_id")?, text_column(batch, "uri")?);
            let (etags, sizes) = (text_column(batch, "etag")?, whole_number_column(batch, "size_bytes")?);
            let (modified, times) = (time_column(batch, "last_modified")?, time_column(batch, "indexed_at")?);
            for row in 0..batch.num_rows() {
                let Some(id) = short_id(value(&ids, row)) else { continue };
                let Some(key) = value(&uris, row).strip_prefix(&self.root) else { continue };
                let Some(last_modified) = DateTime::from_timestamp_micros(modified.value(row)) else { continue };
                let end = self.rows.partition_point(|row| row.id <= id);
                let Some(latest) = self.rows[..end].last_mut() else { continue };
                let is_latest = latest.id == id && latest.time == times.value(row) && !latest.passed;
                if !is_latest || !latest.is_expected() {
                    continue;
                }
                latest.passed = true;
                let video = Latest {
                    key,
                    etag: value(&etags, row),
                    size_bytes: sizes.value(row).max(0).cast_unsigned(),
                    last_modified,
                    is_gone: !latest.seen && !unlisted(key),
                };
                each(&video).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        read_videos(output, columns, UNREADABLE_HINT, |_, batch| read(batch)).await
    }

    fn add_batch(&mut self, key: &str, batch: &RecordBatch, fingerprint: &str) -> Result<(), String> {
        let (ids, uris) = (text_column(batch, "video_id")?, text_column(batch, "uri")?);
        let (etags, modified) = (text_column(batch, "etag")?, time_column(batch, "last_modified")?);
        let (statuses, kinds) = (text_column(batch, "status")?, optional(batch, "error_kind", text_column)?);
        let failures = optional(batch, "failures", whole_number_column)?;
        let fingerprints = text_column(batch, "fingerprint")?;
        let runs = text_column(batch, "run_id")?;
        let times = time_column(batch, "indexed_at")?;
        let file = self.file(key)?;
        for row in 0..batch.num_rows() {
            let Some(id) = short_id(value(&ids, row)) else { continue };
            // Another input's video: this plan has nothing to say of it.
            if !value(&uris, row).starts_with(&self.root) {
                continue;
            }
            let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
            let kind = kinds.as_ref().map_or("", |kinds| value(kinds, row));
            let failures = failures.as_ref().filter(|failures| failures.is_valid(row));
            let earlier = fared(value(&statuses, row), kind, failures.map(|failures| failures.value(row)));
            let counts = earlier == Earlier::Deleted || value(&fingerprints, row) == fingerprint;
            let run = self.run(value(&runs, row))?;
            let listable = modified.value(row) <= self.as_of.timestamp_micros();
            let etag = hash(value(&etags, row));
            self.rows.push(Row { id, etag, time, run, file, earlier, counts, listable, seen: false, passed: false });
        }
        if self.rows.len() >= 2 * self.settled.max(ROWS_MIN) {
            self.settle();
        }
        Ok(())
    }

    /// Sorts the rows, and drops those of each video that no question is about.
    fn settle(&mut self) {
        let runs = &self.runs;
        self.rows.sort_unstable_by(|a, b| {
            (a.id, a.time).cmp(&(b.id, b.time)).then_with(|| runs[a.run as usize].cmp(&runs[b.run as usize]))
        });
        let (mut start, mut kept) = (0, 0);
        while let Some(first) = self.rows.get(start) {
            let count = self.rows[start..].iter().take_while(|row| row.id == first.id).count();
            let rows = &self.rows[start..start + count];
            let done = rows.iter().rposition(|row| row.counts && row.earlier == Earlier::Done);
            let counting = rows.iter().rposition(|row| row.counts);
            let latest = Some(count - 1);
            let positions = [done.filter(|_| done != counting), counting.filter(|_| counting != latest), latest];
            for position in positions.into_iter().flatten() {
                self.rows[kept] = self.rows[start + position];
                kept += 1;
            }
            start += count;
        }
        self.rows.truncate(kept);
        self.settled = kept;
    }

    /// The position of the file's place; batches of one file follow each other.
    fn file(&mut self, key: &str) -> Result<u32, String> {
        if self.file != key {
            key.clone_into(&mut self.file);
            self.places.push(place(Table::Videos, key).map(|(place, _)| place.to_owned()));
        }
        u32::try_from(self.places.len() - 1).map_err(|error| error.to_string())
    }

    /// The position of a run, which is mostly the one of the row before.
    fn run(&mut self, run: &str) -> Result<u32, String> {
        let at = self.runs.iter().rposition(|known| known == run).unwrap_or_else(|| {
            self.runs.push(run.to_owned());
            self.runs.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    }
}

impl Row {
    /// Whether a complete listing would show the video, if the input still held it.
    fn is_expected(&self) -> bool {
        self.earlier != Earlier::Deleted && self.listable
    }
}

/// From a row of `videos`. Where an older vidindex did not count failures, a failed row is one.
fn fared(status: &str, error_kind: &str, failures: Option<i64>) -> Earlier {
    let kind = VideoErrorKind::ALL.into_iter().find(|kind| kind.as_str() == error_kind);
    let may_pass = kind.is_some_and(VideoErrorKind::may_pass);
    match status {
        "ok" => Earlier::Done,
        "partial" if !may_pass => Earlier::Done,
        _ if status == VideoStatus::Deleted.as_str() => Earlier::Deleted,
        _ if kind == Some(VideoErrorKind::Archived) && failures == Some(0) => Earlier::Archived,
        _ => {
            let failures = failures.map_or(1, |failures| u8::try_from(failures.max(0)).unwrap_or(u8::MAX));
            Earlier::Failed { failures, may_pass }
        }
    }
}

/// The first 64 bits of the `video_id` of this address.
fn video_id_bits(uri: &str) -> Option<u64> {
    Sha256::digest(uri).first_chunk().copied().map(u64::from_be_bytes)
}

/// The first 64 of an id's 128 bits; none for what is no id.
fn short_id(video_id: &str) -> Option<u64> {
    u64::from_str_radix(video_id.get(..16)?, 16).ok()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(time: i64, (id, done, counts, deleted): (u64, bool, bool, bool)) -> Row {
        let earlier = match (deleted, done) {
            (true, _) => Earlier::Deleted,
            (_, true) => Earlier::Done,
            _ => Earlier::Failed { failures: 1, may_pass: true },
        };
        let counts = counts || deleted;
        Row { id, etag: 0, time, run: 0, file: 0, earlier, counts, listable: true, seen: false, passed: false }
    }

    proptest! {
        #[test]
        fn rows_dropped_early_are_of_no_account_in_whatever_order_files_are_read(
            rows in prop::collection::vec((0_u64..3, any::<bool>(), any::<bool>(), any::<bool>()), 0..30)
                .prop_map(|rows| (0..).zip(rows).map(|(time, of)| row(time, of)).collect::<Vec<_>>())
                .prop_shuffle(),
            every in 1_usize..5,
        ) {
            let runs = || vec!["r".to_owned()];
            let mut once = Indexed { rows: rows.clone(), runs: runs(), ..Indexed::default() };
            once.settle();
            let mut often = Indexed { runs: runs(), ..Indexed::default() };
            for rows in rows.chunks(every) {
                often.rows.extend(rows);
                often.settle();
            }
            prop_assert_eq!(&once.rows, &often.rows);
            prop_assert!(once.rows.chunk_by(|a, b| a.id == b.id).all(|rows| rows.len() <= 3));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod testing {
    use super::*;
    use arrow::array::{
        ArrayRef, DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use std::sync::Arc;

    /// What a row of the `videos` table says that counts here.
    #[derive(Debug, Clone)]
    pub(in crate::plan) struct VideoRow {
        pub(in crate::plan) video: VideoObject,
        pub(in crate::plan) status: &'static str,
        pub(in crate::plan) error_kind: Option<&'static str>,
        pub(in crate::plan) failures: Option<i64>,
        pub(in crate::plan) fingerprint: String,
        pub(in crate::plan) indexed_at: i64,
        pub(in crate::plan) run_id: String,
    }

    /// A Parquet file of these rows, its strings encoded in every way there is, with a column that does not count.
    pub(in crate::plan) fn videos_table(rows: &[VideoRow]) -> Bytes {
        let ids: StringViewArray = rows.iter().map(|row| Some(row.video.video_id())).collect();
        let etags: LargeStringArray = rows.iter().map(|row| Some(row.video.etag.as_str())).collect();
        let statuses: DictionaryArray<Int32Type> = rows.iter().map(|row| row.status).collect();
        let fingerprints: DictionaryArray<Int32Type> = rows.iter().map(|row| row.fingerprint.as_str()).collect();
        let runs: StringArray = rows.iter().map(|row| Some(row.run_id.as_str())).collect();
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.indexed_at));
        let uris: StringArray = rows.iter().map(|row| Some(row.video.uri.as_str())).collect();
        let sizes = rows.iter().map(|row| i64::try_from(row.video.size_bytes).unwrap());
        let modified = rows.iter().map(|row| row.video.last_modified.timestamp_micros());
        let batch = RecordBatch::try_from_iter([
            ("uri", Arc::new(uris) as ArrayRef),
            ("video_id", Arc::new(ids)),
            ("etag", Arc::new(etags)),
            ("size_bytes", Arc::new(Int64Array::from_iter_values(sizes))),
            ("last_modified", Arc::new(TimestampMicrosecondArray::from_iter_values(modified).with_timezone("UTC"))),
            ("status", Arc::new(statuses)),
            ("error_kind", Arc::new(rows.iter().map(|row| row.error_kind).collect::<StringArray>())),
            ("failures", Arc::new(rows.iter().map(|row| row.failures).collect::<Int64Array>())),
            ("fingerprint", Arc::new(fingerprints)),
            ("indexed_at", Arc::new(times.with_timezone("UTC"))),
            ("run_id", Arc::new(runs)),
        ])
        .unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap().into()
    }
}
