//! What earlier runs indexed, read from the output's `videos` table: the rows of this fingerprint, the latest of each
//! video.

use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{Array, RecordBatch};

use super::VideoObject;
use crate::error::Result;
use crate::store::Store;
use crate::tables::read::{read_videos, text_column, time_column, value};

/// Rows that are added before earlier ones of the same videos are dropped.
const ROWS_MIN: usize = 1 << 20;

const COLUMNS: [&str; 6] = ["video_id", "etag", "status", "fingerprint", "indexed_at", "run_id"];

/// How an unchanged video fared before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Its rows are there, whole or (`partial`) as far as the video goes.
    Done,
    /// It failed.
    Failed,
}

/// Of each video the latest row that this fingerprint made, in 32 bytes. Rows of other fingerprints do not count: jobs
/// that share an output would otherwise index everything again in turn.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// Once read, one for each video, by `id`.
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
}

impl Indexed {
    /// Reads every Parquet file of the `videos` table. An output without one is an empty index.
    pub(super) async fn read(output: &dyn Store, fingerprint: &str) -> Result<Self> {
        let mut indexed = Self::default();
        let hint = "move the file away, or plan with --reindex, which does not read the table";
        read_videos(output, COLUMNS, hint, |_, batch| indexed.add_batch(batch, fingerprint)).await?;
        indexed.settle();
        tracing::debug!(videos = indexed.rows.len(), "read what is indexed");
        Ok(indexed)
    }

    /// How this very content of the video fared, if it was indexed.
    pub(super) fn earlier(&self, video: &VideoObject) -> Option<Earlier> {
        if self.rows.is_empty() {
            return None;
        }
        let id = video.short_id()?;
        let row = self.rows.binary_search_by_key(&id, |row| row.id).ok().map(|at| self.rows[at])?;
        (row.etag == hash(&video.etag)).then_some(row.earlier)
    }

    fn add_batch(&mut self, batch: &RecordBatch, fingerprint: &str) -> Result<(), String> {
        let ids = text_column(batch, "video_id")?;
        let etags = text_column(batch, "etag")?;
        let statuses = text_column(batch, "status")?;
        let fingerprints = text_column(batch, "fingerprint")?;
        let runs = text_column(batch, "run_id")?;
        let times = time_column(batch, "indexed_at")?;
        for row in 0..batch.num_rows() {
            let Some(id) = short_id(value(&ids, row)) else { continue };
            if value(&fingerprints, row) != fingerprint {
                continue;
            }
            let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
            let earlier = match value(&statuses, row) {
                "ok" | "partial" => Earlier::Done,
                _ => Earlier::Failed,
            };
            let run = self.run(value(&runs, row))?;
            self.rows.push(Row { id, etag: hash(value(&etags, row)), time, run, earlier });
        }
        if self.rows.len() >= 2 * self.settled.max(ROWS_MIN) {
            self.settle();
        }
        Ok(())
    }

    /// Sorts the rows, and keeps the latest of each video.
    fn settle(&mut self) {
        let runs = &self.runs;
        self.rows.sort_unstable_by(|a, b| {
            (a.id, a.time).cmp(&(b.id, b.time)).then_with(|| runs[a.run as usize].cmp(&runs[b.run as usize]))
        });
        self.rows.dedup_by(|later, kept| {
            let same = later.id == kept.id;
            if same {
                *kept = *later;
            }
            same
        });
        self.settled = self.rows.len();
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
    use arrow::array::TimestampMicrosecondArray;
    use arrow::array::{ArrayRef, DictionaryArray, LargeStringArray, StringArray, StringViewArray};
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
        let batch = RecordBatch::try_from_iter([
            ("uri", Arc::new(uris) as ArrayRef),
            ("video_id", Arc::new(ids)),
            ("etag", Arc::new(etags)),
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
