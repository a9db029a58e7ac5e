//! What earlier runs indexed, read from the output's `videos` table: the outcome for each video, and which videos the input no
//! longer holds.

use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::Why;
use crate::error::{Result, VideoErrorKind};
use crate::in_use::place;
use crate::run::VideoObject;
use crate::store::{ObjectMeta, Store};
use crate::tables::Table;
use crate::tables::current::{Age, RowKind};
use crate::tables::read::{optional, read_videos, text_column, time_column, value, whole_number_column};

/// Rows that are added before superseded ones are dropped for the first time.
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

/// The earlier outcome for a video that has not changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// It was indexed, completely or (`partial`) as far as its file can be decoded.
    Done,
    /// It could not be read to its end.
    Failed {
        /// How many times in a row.
        failures: u8,
        cause: Cause,
    },
    /// It was in an archive storage class, and not read.
    Archived,
    /// The input no longer held it.
    Deleted,
}

/// Whether a retry can succeed without a change of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    MayPass,
    Permanent,
}

/// A video's latest row.
pub(super) struct Latest<'a> {
    /// Relative to the input.
    pub(super) key: &'a str,
    pub(super) etag: &'a str,
    pub(super) size_bytes: u64,
    pub(super) last_modified: DateTime<Utc>,
    /// Whether the input no longer holds the video.
    pub(super) is_gone: bool,
}

/// The rows of each video that a plan needs, each in 40 bytes: the latest row that counts for the plan
/// ([`RowKind::counts_for_plan`]), the latest of these that is [`Earlier::Done`], and the latest row of all.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// The common beginning of the uris of the input's videos.
    root: String,
    /// Sorted by `id` and [`Age`], one to three for each video, once all files are read.
    rows: Vec<Row>,
    /// How many of `rows` were left after superseded ones were dropped last.
    settled: usize,
    runs: Vec<String>,
    /// Fingerprints other than the plan's.
    others: Vec<String>,
    /// The [`place`]s of the table's files. None for a file that vidindex did not name.
    places: Vec<Option<String>>,
    /// The file that was read last, which is the last of `places`.
    file: String,
    /// When the listing was made. Videos that changed later may be missing from it.
    as_of: DateTime<Utc>,
}

/// `id` and `etag` are hashes. Two videos with the same id would be indexed again by every run; for ten million videos, the
/// probability of such a pair is 1 in 400,000.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    id: u64,
    etag: u64,
    /// In microseconds of the Unix epoch.
    time: i64,
    /// Position in `runs`.
    run: u32,
    /// Position in `places`.
    file: u32,
    earlier: Earlier,
    /// See [`RowKind::counts_for_plan`].
    counts: bool,
    /// Position in `others`; [`u8::MAX`] for the plan's own fingerprint, and if there are more.
    settings: u8,
    /// Whether the listing is recent enough to hold this version of the video.
    listable: bool,
    /// Whether the video was listed. Set in the latest row only.
    seen: bool,
    /// Whether [`Indexed::each_latest`] has passed it on. Two rows can have the same time.
    passed: bool,
}

impl Indexed {
    /// Reads every Parquet file of the `videos` table. An output without any is an empty index. `as_of` is when the listing
    /// was made.
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

    /// The earlier outcome for a video that the input holds. None if there is none for this version of the file.
    pub(super) fn earlier(&mut self, video: &VideoObject) -> Option<Earlier> {
        let row = self.rows_of(&video.uri)?.iter().rev().find(|row| row.counts)?;
        (row.earlier == Earlier::Deleted || row.etag == hash(&video.etag)).then_some(row.earlier)
    }

    /// The [`place`] of the latest good rows of this version of a video, which were current before it was deleted.
    pub(super) fn source(&mut self, video: &VideoObject) -> Option<String> {
        let done = |row: &&Row| row.counts && row.earlier == Earlier::Done;
        let row = *self.rows_of(&video.uri)?.iter().rev().find(done)?;
        self.places.get(row.file as usize)?.clone().filter(|_| row.etag == hash(&video.etag))
    }

    /// Why a video has to be indexed for which there is no [`Earlier`] outcome.
    pub(super) fn why(&mut self, video: &VideoObject) -> Why {
        match self.rows_of(&video.uri).and_then(|rows| rows.last()) {
            Some(row) if row.earlier == Earlier::Deleted => Why::New,
            Some(row) if row.etag == hash(&video.etag) => Why::Settings(row.settings),
            Some(_) => Why::Changed,
            None => Why::New,
        }
    }

    /// The largest `indexed_at`.
    pub(super) fn newest(&self) -> Option<DateTime<Utc>> {
        self.rows.iter().map(|row| row.time).max().and_then(DateTime::from_timestamp_micros)
    }

    /// The fingerprints by whose numbers [`Indexed::why`] names other settings.
    pub(super) fn other_fingerprints(&self) -> &[String] {
        &self.others
    }

    /// Notes that the input holds this object, which the job leaves out.
    pub(super) fn see(&mut self, uri: &str) {
        let _ = self.rows_of(uri);
    }

    /// The rows of a video, which the input holds.
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

    /// Whether any indexed video is missing from the listing.
    pub(super) fn lacks_any(&self) -> bool {
        let of_one_video = self.rows.chunk_by(|a, b| a.id == b.id);
        of_one_video.filter_map(|rows| rows.last()).any(|row| row.is_expected() && !row.seen)
    }

    /// Reads the table again, and passes to `each` the latest row of each video that the listing should have shown, in no
    /// particular order. Videos whose keys are `unlisted` do not count as gone.
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
            // A video of another input.
            if !value(&uris, row).starts_with(&self.root) {
                continue;
            }
            let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
            let kind = kinds.as_ref().map_or("", |kinds| value(kinds, row));
            let failures = failures.as_ref().filter(|failures| failures.is_valid(row));
            let status = value(&statuses, row);
            let row_kind = RowKind::of(status, None, None);
            let earlier = earlier(row_kind, status, kind, failures.map(|failures| failures.value(row)));
            let counts = row_kind.counts_for_plan(value(&fingerprints, row), fingerprint);
            let run = self.run(value(&runs, row))?;
            let settings = self.settings(value(&fingerprints, row), fingerprint);
            let listable = modified.value(row) <= self.as_of.timestamp_micros();
            let etag = hash(value(&etags, row));
            let (seen, passed) = (false, false);
            self.rows.push(Row { id, etag, time, run, file, earlier, counts, settings, listable, seen, passed });
        }
        if self.rows.len() >= 2 * self.settled.max(ROWS_MIN) {
            self.settle();
        }
        Ok(())
    }

    /// Sorts the rows and drops those that a plan does not need.
    fn settle(&mut self) {
        let runs = &self.runs;
        let age = |row: &Row| Age { indexed_at: row.time, run_id: &runs[row.run as usize] };
        self.rows.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| age(a).cmp(&age(b))));
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

    /// The position of the file's place. Batches of one file follow each other.
    fn file(&mut self, key: &str) -> Result<u32, String> {
        if self.file != key {
            key.clone_into(&mut self.file);
            self.places.push(place(Table::Videos, key).map(|(place, _)| place.to_owned()));
        }
        u32::try_from(self.places.len() - 1).map_err(|error| error.to_string())
    }

    /// The number of the row's settings.
    fn settings(&mut self, row: &str, own: &str) -> u8 {
        if row == own {
            return u8::MAX;
        }
        let known = self.others.iter().position(|known| known == row);
        if known.is_none() && self.others.len() < usize::from(u8::MAX) {
            self.others.push(row.to_owned());
            return self.settings(row, own);
        }
        known.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
    }

    /// The position of a run, which is mostly that of the row before.
    fn run(&mut self, run: &str) -> Result<u32, String> {
        let at = self.runs.iter().rposition(|known| known == run).unwrap_or_else(|| {
            self.runs.push(run.to_owned());
            self.runs.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    }
}

const _: () = assert!(size_of::<Row>() == 40, "an index may have millions");

impl Row {
    /// Whether a complete listing shows the video if the input still holds it.
    fn is_expected(&self) -> bool {
        self.earlier != Earlier::Deleted && self.listable
    }
}

/// From a row of `videos`. Older versions did not count failures: a failed row without a count is the first failure.
fn earlier(row: RowKind, status: &str, error_kind: &str, failures: Option<i64>) -> Earlier {
    let kind = VideoErrorKind::named(error_kind);
    let cause = if kind.is_some_and(VideoErrorKind::may_pass) { Cause::MayPass } else { Cause::Permanent };
    match row {
        RowKind::Deleted => Earlier::Deleted,
        RowKind::Indexed(_) if status == "ok" || status == "partial" && cause == Cause::Permanent => Earlier::Done,
        _ if kind == Some(VideoErrorKind::Archived) && failures == Some(0) => Earlier::Archived,
        _ => {
            let failures = failures.map_or(1, |failures| u8::try_from(failures.max(0)).unwrap_or(u8::MAX));
            Earlier::Failed { failures, cause }
        }
    }
}

/// The first 64 bits of the `video_id` of a uri.
pub(super) fn video_id_bits(uri: &str) -> Option<u64> {
    Sha256::digest(uri).first_chunk().copied().map(u64::from_be_bytes)
}

/// The first 64 of an id's 128 bits. None for text that is no id.
pub(super) fn short_id(video_id: &str) -> Option<u64> {
    u64::from_str_radix(video_id.get(..16)?, 16).ok()
}

pub(super) fn hash(text: &str) -> u64 {
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
            _ => Earlier::Failed { failures: 1, cause: Cause::MayPass },
        };
        let counts = counts || deleted;
        let (settings, listable, seen, passed) = (u8::MAX, true, false, false);
        Row { id, etag: 0, time, run: 0, file: 0, earlier, counts, settings, listable, seen, passed }
    }

    proptest! {
        #[test]
        fn rows_can_be_dropped_at_any_time_while_files_are_read_in_any_order(
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

    /// The columns of a row of the `videos` table that a plan reads.
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

    /// A Parquet file of these rows, with strings in every encoding, and a column that plans do not read.
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
