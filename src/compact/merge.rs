//! Merging a table's sorted files: rows of one video at a time, in the order of their uris, from the files that are open.

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

use crate::current::{VideoId, parse_id};
use crate::error::{Error, Result};
use crate::store::{Store, StoreErrorKind};
use crate::tables::Table;
use crate::tables::copy::{check_version, conform, of_run, replace};
use crate::tables::read::{text_column, time_column, value};

/// Rows of one file that are in memory at a time.
const READ_ROWS: usize = 512;

/// Rows written at a time.
const WRITE_ROWS: usize = 2048;

/// Files fetched ahead of the one that is opened.
const READS_AHEAD: usize = 4;

/// A file to merge.
pub(super) struct Input<'a> {
    /// Its place among the files of `videos`.
    pub(super) file: u32,
    pub(super) key: &'a str,
    /// No row of it has a lesser uri.
    pub(super) first_uri: &'a str,
}

/// Gives `each` the rows of the inputs (by `first_uri`) that `takes` says to take, batch by batch, in the table's order.
///
/// `takes` is asked with the file and the video; of rows of `videos`, with the row's time too. The files that are open are
/// those that the current uri lies in: those of one run follow each other.
///
/// # Errors
/// The output refused, a file is gone or cannot be read, or is of columns or of a schema that this vidindex does not know.
pub(super) async fn merge(
    output: &dyn Store,
    table: Table,
    inputs: &[Input<'_>],
    takes: impl Fn(u32, VideoId, Option<i64>) -> bool,
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
                    return Err(Error::failed(format!("{} is gone since it was listed", output.uri(input.key)))
                        .with_hint("what was merged is kept: compact again"));
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
            // The only task of its thread gives way to signals.
            tokio::task::yield_now().await;
        }
        if cursor.advance().map_err(problem)? {
            open.push(Reverse(cursor));
        }
    }
    merged.finish_buffered_batch().map_err(|error| Error::failed(error.to_string()))?;
    std::iter::from_fn(|| merged.next_completed_batch()).try_for_each(each)
}

/// The rows as the copies that they are: of this run, and of `videos` of this shard, and a microsecond younger.
pub(super) fn restamp(table: Table, batch: &RecordBatch, run_id: &str, shard: u32) -> Result<RecordBatch, ArrowError> {
    replace(&of_run(table, batch, run_id, shard)?, |name| {
        let times = batch.column_by_name(name).filter(|_| name == "indexed_at")?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let later: TimestampMicrosecondArray = times.unary(|at| at + 1);
        Some(Arc::new(later.with_timezone_opt(times.timezone())))
    })
}

fn unreadable(output: &dyn Store, input: &Input<'_>, problem: &str) -> Error {
    Error::failed(format!("cannot merge {}: {problem}", output.uri(input.key)))
        .with_hint("the views show the same as before: move the file away, or repair it, and compact again")
}

/// A file that is open, at the first row of a video. Ordered by that video's uri.
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
    /// None of a file without rows.
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

    /// The rows of the current video as far as they are in memory, in slices.
    fn take(
        &mut self,
        table: Table,
        takes: impl Fn(u32, VideoId, Option<i64>) -> bool,
    ) -> Result<Vec<RecordBatch>, String> {
        let (start, rows) = (self.at, self.uris.len());
        self.at = (start..rows).find(|row| self.uris.value(*row) != self.uri).unwrap_or(rows);
        let id = parse_id(value(&self.ids, start))?;
        if table != Table::Videos {
            let taken = takes(self.file, id, None);
            return Ok(taken.then(|| self.batch.slice(start, self.at - start)).into_iter().collect());
        }
        let times = time_column(&self.batch, "indexed_at")?;
        let taken = (start..self.at).filter(|row| takes(self.file, id, Some(times.value(*row))));
        Ok(taken.map(|row| self.batch.slice(row, 1)).collect())
    }

    /// To the next row that was not taken; false at the end.
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
