//! What earlier runs indexed, read from the output's `videos` table: which videos need not be done again, and which the
//! input does not hold any more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::VideoObject;
use crate::error::Result;
use crate::job::Input;
use crate::store::Store;
use crate::tables::VideoStatus;
use crate::tables::read::{read_videos, text_column, time_column, value, whole_number_column};

/// Rows that are added before earlier ones of the same videos are dropped.
const ROWS_MIN: usize = 1 << 20;

const COLUMNS: [&str; 7] = ["video_id", "uri", "etag", "status", "fingerprint", "indexed_at", "run_id"];

const UNREADABLE_HINT: &str = "move the file away, or plan with --reindex, which does not read the table";

/// How an unchanged video fared before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Its rows are there, whole or (`partial`) as far as the video goes.
    Done,
    /// It failed.
    Failed,
    /// It was gone from the input.
    Deleted,
}

/// Of each video the latest row that counts for this fingerprint, and the latest of all where that is another, each in 32
/// bytes. Rows of other fingerprints do not count, but for those that say that a video was gone: jobs that share an
/// output would otherwise index everything again in turn.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// What the addresses of the input's videos begin with.
    root: String,
    /// Once read, one or two for each video, by `id` and time.
    rows: Vec<Row>,
    /// How many of `rows` were left when they were last settled.
    settled: usize,
    runs: Vec<String>,
}

/// `id` and `etag` are hashes: two videos of one id are indexed in turn with each run, of which there is one chance in
/// 400,000 among ten million.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: u64,
    etag: u64,
    /// Microseconds of the Unix epoch.
    time: i64,
    /// Position in `runs`: of two rows of one time, the later run's wins.
    run: u32,
    earlier: Earlier,
    counts: bool,
    /// Whether the video was listed. Of the latest row alone.
    seen: bool,
}

impl Indexed {
    /// Reads every Parquet file of the `videos` table. An output without one is an empty index.
    pub(super) async fn read(input: &dyn Store, output: &dyn Store, fingerprint: &str) -> Result<Self> {
        let mut indexed = Self { root: input.uri(""), ..Self::default() };
        read_videos(output, COLUMNS, UNREADABLE_HINT, |_, batch| indexed.add_batch(batch, fingerprint)).await?;
        indexed.settle();
        tracing::debug!(videos = indexed.rows.len(), "read what is indexed");
        Ok(indexed)
    }

    /// The input holds the video. How this very content of it fared, if it was indexed.
    pub(super) fn earlier(&mut self, video: &VideoObject) -> Option<Earlier> {
        let row = self.rows_of(&video.uri)?.iter().rev().find(|row| row.counts)?;
        (row.etag == hash(&video.etag)).then_some(row.earlier)
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

    /// The videos that the input does not hold any more, as the latest row of each has them, in no particular order.
    /// Those that changed after `as_of`, when the listing was made, may have been unknown to it.
    pub(super) async fn deleted(
        self,
        job: &Input,
        output: &dyn Store,
        as_of: DateTime<Utc>,
        mut take: impl FnMut(VideoObject) -> Result<()>,
    ) -> Result<()> {
        let of_one_video = self.rows.chunk_by(|a, b| a.id == b.id);
        let mut deleted: HashMap<u64, i64> = of_one_video
            .filter_map(|rows| rows.last().filter(|row| !row.seen && row.earlier != Earlier::Deleted))
            .map(|row| (row.id, row.time))
            .collect();
        if deleted.is_empty() {
            return Ok(());
        }
        let root = self.root;
        drop(self.rows);
        let columns = ["video_id", "uri", "etag", "size_bytes", "last_modified", "indexed_at"];
        let mut each = |batch: &RecordBatch| {
            let (ids, uris) = (text_column(batch, "video_id")?, text_column(batch, "uri")?);
            let (etags, sizes) = (text_column(batch, "etag")?, whole_number_column(batch, "size_bytes")?);
            let (modified, times) = (time_column(batch, "last_modified")?, time_column(batch, "indexed_at")?);
            for row in 0..batch.num_rows() {
                let Some(id) = short_id(value(&ids, row)) else { continue };
                let Some(key) = uris.value(row).strip_prefix(&root) else { continue };
                let Some(last_modified) = DateTime::from_timestamp_micros(modified.value(row)) else { continue };
                if deleted.get(&id) != Some(&times.value(row)) || last_modified > as_of {
                    continue;
                }
                deleted.remove(&id);
                let video = VideoObject {
                    uri: uris.value(row).to_owned(),
                    partition: job.partition_of(key),
                    key: key.to_owned(),
                    size_bytes: sizes.value(row).max(0).cast_unsigned(),
                    etag: value(&etags, row).to_owned(),
                    last_modified,
                    deleted: true,
                };
                take(video).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        read_videos(output, columns, UNREADABLE_HINT, |_, batch| each(batch)).await
    }

    fn add_batch(&mut self, batch: &RecordBatch, fingerprint: &str) -> Result<(), String> {
        let (ids, uris) = (text_column(batch, "video_id")?, text_column(batch, "uri")?);
        let etags = text_column(batch, "etag")?;
        let statuses = text_column(batch, "status")?;
        let fingerprints = text_column(batch, "fingerprint")?;
        let runs = text_column(batch, "run_id")?;
        let times = time_column(batch, "indexed_at")?;
        for row in 0..batch.num_rows() {
            let Some(id) = short_id(value(&ids, row)) else { continue };
            // Another input's video: this plan has nothing to say of it.
            if !value(&uris, row).starts_with(&self.root) {
                continue;
            }
            let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
            let status = value(&statuses, row);
            let earlier = match status {
                "ok" | "partial" => Earlier::Done,
                _ if status == VideoStatus::Deleted.as_str() => Earlier::Deleted,
                _ => Earlier::Failed,
            };
            let counts = earlier == Earlier::Deleted || value(&fingerprints, row) == fingerprint;
            let run = self.run(value(&runs, row))?;
            self.rows.push(Row { id, etag: hash(value(&etags, row)), time, run, earlier, counts, seen: false });
        }
        if self.rows.len() >= 2 * self.settled.max(ROWS_MIN) {
            self.settle();
        }
        Ok(())
    }

    /// Sorts the rows, and keeps of each video the latest that counts and the latest.
    fn settle(&mut self) {
        let runs = &self.runs;
        self.rows.sort_unstable_by(|a, b| {
            (a.id, a.time).cmp(&(b.id, b.time)).then_with(|| runs[a.run as usize].cmp(&runs[b.run as usize]))
        });
        let (mut start, mut kept) = (0, 0);
        while let Some(first) = self.rows.get(start) {
            let count = self.rows[start..].iter().take_while(|row| row.id == first.id).count();
            let rows = &self.rows[start..start + count];
            let latest = rows[count - 1];
            let counting = rows.iter().rev().find(|row| row.counts).copied().filter(|_| !latest.counts);
            for row in counting.into_iter().chain([latest]) {
                self.rows[kept] = row;
                kept += 1;
            }
            start += count;
        }
        self.rows.truncate(kept);
        self.settled = kept;
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
