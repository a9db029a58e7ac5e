//! Merges sorted files of a table, video by video in the order of their uris.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::StreamExt;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::error::{Error, Result};
use crate::in_use::VideoId;
use crate::store::{Store, StoreErrorKind};
use crate::tables::Table;
use crate::tables::copy::{check_version, conform, of_run, replace};
use crate::tables::current::copied_at;
use crate::tables::read::{text_column, time_column, value};

/// Rows of one file in memory.
const READ_ROWS: usize = 512;

/// Rows written at a time.
const WRITE_ROWS: usize = 2048;

/// Files fetched ahead of the one that is opened.
const READS_AHEAD: usize = 4;

/// A file to merge.
pub(super) struct Input<'a> {
    /// Position of the file of `videos` beside it, in `Rows::files`.
    pub(super) file: u32,
    pub(super) key: &'a str,
    /// At most the uri of the file's first row.
    pub(super) first_uri: &'a str,
}

/// The rows of a video in one file that a merge asks about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// The row of `videos` of this time.
    VideosRow {
        /// In microseconds of the Unix epoch.
        indexed_at: i64,
    },
    /// All rows of another table.
    OtherTable,
}

/// Passes to `each`, batch by batch in the table's order, those rows of the inputs for which `takes` returns true.
///
/// The inputs are sorted by `first_uri`. Only files whose range of uris the merge has reached are open: the files of one run
/// mostly follow each other.
///
/// # Errors
/// The output refused; a file was removed, cannot be read, or has columns or a schema version that are unknown here.
pub(super) async fn merge(
    output: &dyn Store,
    table: Table,
    inputs: &[Input<'_>],
    takes: impl Fn(u32, VideoId, Asked) -> bool,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let fetch = |input: &Input<'_>| {
        let key = input.key.to_owned();
        async move { output.get(&key).await }
    };
    let mut fetched = futures::stream::iter(inputs.iter().map(fetch)).buffered(READS_AHEAD);
    let mut waiting = inputs.iter().peekable();
    let mut open: BinaryHeap<Reverse<Cursor>> = BinaryHeap::new();
    let mut merged = BatchCoalescer::new(table.schema(), WRITE_ROWS);
    loop {
        let due = |input: &&Input<'_>| open.peek().is_none_or(|Reverse(first)| input.first_uri <= first.uri.as_str());
        if let Some(input) = waiting.next_if(due) {
            let bytes = match fetched.next().await {
                Some(Err(error)) if error.kind == StoreErrorKind::NotFound => {
                    return Err(Error::failed(format!("{} was removed during the merge", output.uri(input.key)))
                        .with_hint("what was merged so far is kept: compact again"));
                }
                fetched => fetched.transpose()?.unwrap_or_default(),
            };
            let cursor =
                Cursor::open(bytes, table, input.file).map_err(|problem| unreadable(output, input, &problem))?;
            open.extend(cursor.map(Reverse));
            continue;
        }
        let Some(Reverse(mut cursor)) = open.pop() else { break };
        let file = cursor.file;
        let problem = |problem: String| match inputs.iter().find(|input| input.file == file) {
            Some(input) => unreadable(output, input, &problem),
            None => Error::failed(problem),
        };
        for rows in cursor.take(table, &takes).map_err(problem)? {
            merged.push_batch(rows).map_err(|error| problem(error.to_string()))?;
        }
        while let Some(batch) = merged.next_completed_batch() {
            each(batch)?;
            // Lets the thread's other tasks run, which wait for signals.
            tokio::task::yield_now().await;
        }
        if cursor.advance().map_err(problem)? {
            open.push(Reverse(cursor));
        }
    }
    merged.finish_buffered_batch().map_err(|error| Error::failed(error.to_string()))?;
    std::iter::from_fn(|| merged.next_completed_batch()).try_for_each(each)
}

/// Turns rows into copies: with the run, shard and time of the compaction.
pub(super) fn restamp(table: Table, batch: &RecordBatch, run_id: &str, shard: u32) -> Result<RecordBatch, ArrowError> {
    replace(&of_run(table, batch, run_id, shard)?, |name| {
        let times = batch.column_by_name(name).filter(|_| name == "indexed_at")?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let later: TimestampMicrosecondArray = times.unary(copied_at);
        Some(Arc::new(later.with_timezone_opt(times.timezone())))
    })
}

fn unreadable(output: &dyn Store, input: &Input<'_>, problem: &str) -> Error {
    Error::failed(format!("cannot merge {}: {problem}", output.uri(input.key)))
        .with_hint("the views show the same as before: repair the file or move it away, then compact again")
}

/// An open file, positioned at the first row of a video. Ordered by that video's uri.
struct Cursor {
    file: u32,
    uri: String,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    batch: RecordBatch,
    ids: StringArray,
    uris: StringArray,
    at: usize,
}

impl Cursor {
    /// None for a file without rows.
    fn open(bytes: Bytes, table: Table, file: u32) -> Result<Option<Self>, String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
        check_version(builder.metadata())?;
        let reader = builder.with_batch_size(READ_ROWS).build().map_err(|error| error.to_string())?;
        let schema = table.schema();
        let none = StringArray::new_null(0);
        let batch = RecordBatch::new_empty(schema.clone());
        let mut cursor = Self { file, uri: String::new(), reader, schema, batch, ids: none.clone(), uris: none, at: 0 };
        Ok(cursor.advance()?.then_some(cursor))
    }

    /// The rows of the current video that are in memory, as slices.
    fn take(&mut self, table: Table, takes: impl Fn(u32, VideoId, Asked) -> bool) -> Result<Vec<RecordBatch>, String> {
        let (start, rows) = (self.at, self.uris.len());
        self.at = (start..rows).find(|row| self.uris.value(*row) != self.uri).unwrap_or(rows);
        let id = VideoId::parse(value(&self.ids, start))?;
        if table != Table::Videos {
            let taken = takes(self.file, id, Asked::OtherTable);
            return Ok(taken.then(|| self.batch.slice(start, self.at - start)).into_iter().collect());
        }
        let times = time_column(&self.batch, "indexed_at")?;
        let asked = |row| Asked::VideosRow { indexed_at: times.value(row) };
        let taken = (start..self.at).filter(|row| takes(self.file, id, asked(*row)));
        Ok(taken.map(|row| self.batch.slice(row, 1)).collect())
    }

    /// Moves to the next row that was not taken. False at the end of the file.
    fn advance(&mut self) -> Result<bool, String> {
        while self.at == self.uris.len() {
            let Some(batch) = self.reader.next() else { return Ok(false) };
            self.batch = conform(&batch.map_err(|error| error.to_string())?, &self.schema)?;
            self.ids = text_column(&self.batch, "video_id")?;
            self.uris = text_column(&self.batch, "uri")?;
            self.at = 0;
        }
        let uri = self.uris.value(self.at);
        if uri < self.uri.as_str() {
            return Err(format!("it is not sorted: {uri} comes after {}", self.uri));
        }
        self.uri.clear();
        self.uri.push_str(uri);
        Ok(true)
    }
}

impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.uri, self.file).cmp(&(&other.uri, other.file))
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cursor {}
