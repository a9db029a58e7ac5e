//! `plan.parquet`, the videos of every shard: written one row group at a time, and read only in the row groups of a
//! shard.

use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, BooleanArray, Int32Array, Int64Array, MapArray, MapBuilder, MapFieldNames};
use arrow::array::{RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::{Buf, Bytes};
use chrono::DateTime;
use parquet::DecodeResult;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataPushDecoder, RowGroupMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use super::{RUNS_PREFIX, RunId, Shard, Todo, VideoObject};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::tables::read::{optional, text_column, time_column, whole_number_column};

/// `_vidindex/runs/<run>/plan.parquet`.
pub fn plan_key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/plan.parquet")
}

/// Rows in a row group. A worker fetches the row groups that contain its shard.
const GROUP_ROWS: usize = 10_000;

/// A video and its shard.
type PlanRow = (u32, VideoObject);

/// Writes the plan to a scratch file. Holds one row group in memory.
pub(crate) struct PlanWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
    rows: Vec<PlanRow>,
}

impl PlanWriter {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("plan.parquet");
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::None)
            .set_column_statistics_enabled(ColumnPath::from("shard"), EnabledStatistics::Chunk)
            .set_column_dictionary_enabled(ColumnPath::from("etag"), false);
        for column in ["key", "uri"] {
            // The keys are sorted, so each one shares a prefix with the previous one.
            properties = properties
                .set_column_dictionary_enabled(ColumnPath::from(column), false)
                .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BYTE_ARRAY);
        }
        let writer = || {
            let file = File::create(&path).map_err(|error| error.to_string())?;
            let schema = to_batch(&[])?.schema();
            ArrowWriter::try_new(file, schema, Some(properties.build())).map_err(|error| error.to_string())
        };
        let writer = writer().map_err(unwritten)?;
        Ok(Self { path, writer, rows: Vec::with_capacity(GROUP_ROWS) })
    }

    /// Adds the next video. Its shard must not be lower than the previous video's.
    pub(crate) fn push(&mut self, shard: u32, video: VideoObject) -> Result<()> {
        self.rows.push((shard, video));
        if self.rows.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    /// Completes the file and returns its path.
    pub(crate) fn finish(mut self) -> Result<PathBuf> {
        self.flush()?;
        self.writer.close().map_err(unwritten)?;
        Ok(self.path)
    }

    fn flush(&mut self) -> Result<()> {
        let batch = to_batch(&self.rows).map_err(unwritten)?;
        self.writer.write(&batch).map_err(unwritten)?;
        self.rows.clear();
        Ok(())
    }
}

/// A run's `plan.parquet` in the output, whose row groups are fetched on demand.
#[derive(Debug)]
pub struct PlanFile {
    key: String,
    metadata: ArrowReaderMetadata,
    shards: u32,
    /// The row group that was fetched last, because the next shard is often in it as well.
    latest: Mutex<Option<(usize, Arc<Vec<PlanRow>>)>>,
}

impl PlanFile {
    /// Opens the file by reading its footer.
    pub(super) async fn open(output: &dyn Store, key: String, shards: u32) -> Result<Self> {
        let unreadable = |problem: ParquetError| unreadable(output, &key, problem);
        let length = output.head(&key).await?.size_bytes;
        let mut decoder = ParquetMetaDataPushDecoder::try_new(length).map_err(unreadable)?;
        let metadata = loop {
            match decoder.try_decode().map_err(unreadable)? {
                DecodeResult::Data(metadata) => break metadata,
                DecodeResult::Finished => return Err(unreadable(ParquetError::General("no footer".to_owned()))),
                DecodeResult::NeedsData(ranges) => {
                    for range in ranges {
                        let read = output.get_range(&key, range.start, range.end - range.start).await?;
                        decoder.push_range(range, read.bytes).map_err(unreadable)?;
                    }
                }
            }
        };
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), Default::default()).map_err(unreadable)?;
        Ok(Self { key, metadata, shards, latest: Mutex::default() })
    }

    /// Number of shards.
    pub fn shard_count(&self) -> u32 {
        self.shards
    }

    /// Reads one shard from the output that contains the plan.
    ///
    /// # Errors
    /// [`Error::Usage`] if the plan has no shard with this index.
    pub async fn shard(&self, output: &dyn Store, index: u32) -> Result<Shard> {
        if index >= self.shards {
            return Err(Error::usage(format!("there is no shard {index}: the run has {} shards", self.shards)));
        }
        let mut videos = Vec::new();
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        for (position, group) in groups.filter(|(_, group)| shards_of(group).contains(&i64::from(index))) {
            let rows = self.group(output, position, group).await?;
            videos.extend(rows.iter().filter(|(shard, _)| *shard == index).map(|(_, video)| video.clone()));
        }
        if videos.is_empty() {
            return Err(unreadable(output, &self.key, format!("it has no videos of shard {index}")));
        }
        Ok(Shard { index, videos })
    }

    async fn group(&self, output: &dyn Store, position: usize, group: &RowGroupMetaData) -> Result<Arc<Vec<PlanRow>>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, rows)) = latest.filter(|(at, _)| *at == position) {
            return Ok(rows);
        }
        let span = span(group);
        let bytes = output.get_range(&self.key, span.start, span.end - span.start).await?.bytes;
        let rows = decode(Window { start: span.start, bytes }, &self.metadata, position);
        let rows = Arc::new(rows.map_err(|problem| unreadable(output, &self.key, problem))?);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((position, rows.clone()));
        Ok(rows)
    }

    #[cfg(test)]
    pub(super) fn group_count(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }
}

/// The shards of a row group, by its statistics.
fn shards_of(group: &RowGroupMetaData) -> RangeInclusive<i64> {
    match group.column(0).statistics() {
        Some(Statistics::Int32(range)) => {
            range.min_opt().map_or(0, |min| i64::from(*min))..=range.max_opt().map_or(i64::MAX, |max| i64::from(*max))
        }
        _ => 0..=i64::MAX,
    }
}

/// The byte range of a row group's columns, which are adjacent in the file.
fn span(group: &RowGroupMetaData) -> Range<u64> {
    let ranges = group.columns().iter().map(|column| column.byte_range());
    let end = ranges.clone().map(|(start, length)| start + length).max();
    ranges.map(|(start, _)| start).min().unwrap_or(0)..end.unwrap_or(0)
}

fn decode(window: Window, metadata: &ArrowReaderMetadata, group: usize) -> Result<Vec<PlanRow>, String> {
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, metadata.clone())
        .with_row_groups(vec![group])
        .build()
        .map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for batch in reader {
        from_batch(&batch.map_err(|error| error.to_string())?, &mut rows)?;
    }
    Ok(rows)
}

/// A byte range of a file that is read in place of the whole file, as long as nothing outside of it is needed.
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let length = usize::try_from(self.len().saturating_sub(start)).unwrap_or(usize::MAX);
        Ok(self.get_bytes(start, length)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let at = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| Some(at..at.checked_add(length)?)) {
            Some(range) if range.end <= self.bytes.len() => Ok(self.bytes.slice(range)),
            _ => Err(ParquetError::EOF(format!("{length} bytes at {start} are not in the row group"))),
        }
    }
}

fn unreadable(output: &dyn Store, key: &str, problem: impl std::fmt::Display) -> Error {
    Error::failed(format!("failed to read the plan {}: {problem}", output.uri(key))).with_hint("plan again")
}

fn unwritten(problem: impl std::fmt::Display) -> Error {
    Error::failed(format!("failed to write the plan's scratch file: {problem}"))
        .with_hint("set TMPDIR to a directory with free space")
}

fn partition_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

fn schema(partition: &DataType) -> SchemaRef {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        field("shard", DataType::Int32),
        field("key", DataType::Utf8),
        field("uri", DataType::Utf8),
        field("etag", DataType::Utf8),
        field("size_bytes", DataType::Int64),
        field("last_modified", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("partition", partition.clone()),
        field("deleted", DataType::Boolean),
        field("failures", DataType::Int64),
        Field::new("storage_class", DataType::Utf8, true),
        Field::new("restore_from", DataType::Utf8, true),
        Field::new("version_id", DataType::Utf8, true),
    ]))
}

fn to_batch(rows: &[PlanRow]) -> Result<RecordBatch, String> {
    let text = |of: fn(&VideoObject) -> &str| StringArray::from_iter_values(rows.iter().map(|(_, video)| of(video)));
    let shards: Result<Int32Array, _> = rows.iter().map(|(shard, _)| i32::try_from(*shard).map(Some)).collect();
    let sizes: Result<Int64Array, _> = rows.iter().map(|(_, v)| i64::try_from(v.size_bytes).map(Some)).collect();
    let times = rows.iter().map(|(_, video)| video.last_modified.timestamp_micros());
    let mut partitions = MapBuilder::new(Some(partition_names()), StringBuilder::new(), StringBuilder::new());
    for (_, video) in rows {
        for (name, value) in &video.partition {
            partitions.keys().append_value(name);
            partitions.values().append_value(value);
        }
        partitions.append(true).map_err(|error| error.to_string())?;
    }
    let partitions = partitions.finish();
    let todos = || rows.iter().map(|(_, video)| &video.todo);
    let schema = schema(partitions.data_type());
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(shards.map_err(|error| error.to_string())?),
        Arc::new(text(|video| &video.key)),
        Arc::new(text(|video| &video.uri)),
        Arc::new(text(|video| &video.etag)),
        Arc::new(sizes.map_err(|error| error.to_string())?),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(partitions),
        Arc::new(BooleanArray::from_iter(todos().map(|todo| Some(*todo == Todo::MarkDeleted)))),
        Arc::new(Int64Array::from_iter_values(todos().map(|todo| match todo {
            Todo::Index { failures } => i64::from(*failures),
            _ => 0,
        }))),
        Arc::new(StringArray::from_iter(todos().map(|todo| match todo {
            Todo::MarkArchived { storage_class } => Some(storage_class),
            _ => None,
        }))),
        Arc::new(StringArray::from_iter(todos().map(|todo| match todo {
            Todo::Restore { from } => Some(from),
            _ => None,
        }))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, video)| video.version_id.as_ref()))),
    ];
    RecordBatch::try_new(schema, columns).map_err(|error| error.to_string())
}

fn from_batch(batch: &RecordBatch, videos: &mut Vec<PlanRow>) -> Result<(), String> {
    let shards = whole_number_column(batch, "shard")?;
    let sizes = whole_number_column(batch, "size_bytes")?;
    let (keys, uris) = (text_column(batch, "key")?, text_column(batch, "uri")?);
    let (etags, times) = (text_column(batch, "etag")?, time_column(batch, "last_modified")?);
    let partitions = batch
        .column_by_name("partition")
        .and_then(|column| column.as_any().downcast_ref::<MapArray>())
        .ok_or("it has no map `partition`")?;
    let deleted = batch.column_by_name("deleted").and_then(|column| column.as_boolean_opt());
    let deleted = deleted.ok_or("it has no booleans `deleted`")?;
    let failures = whole_number_column(batch, "failures")?;
    let (classes, sources) = (text_column(batch, "storage_class")?, text_column(batch, "restore_from")?);
    // Plans of version 0.1 have no such column.
    let versions = optional(batch, "version_id", text_column)?;
    let text_at = |column: &StringArray, row| column.is_valid(row).then(|| column.value(row).to_owned());
    for row in 0..batch.num_rows() {
        let todo = match (deleted.value(row), text_at(&classes, row), text_at(&sources, row)) {
            (true, _, _) => Todo::MarkDeleted,
            (_, Some(storage_class), _) => Todo::MarkArchived { storage_class },
            (_, _, Some(from)) => Todo::Restore { from },
            _ => Todo::Index { failures: u32::try_from(failures.value(row)).map_err(|error| error.to_string())? },
        };
        let shard = u32::try_from(shards.value(row)).map_err(|error| error.to_string())?;
        let time = times.value(row);
        let video = VideoObject {
            key: keys.value(row).to_owned(),
            uri: uris.value(row).to_owned(),
            size_bytes: u64::try_from(sizes.value(row)).map_err(|error| error.to_string())?,
            etag: etags.value(row).to_owned(),
            version_id: versions.as_ref().and_then(|versions| text_at(versions, row)),
            last_modified: DateTime::from_timestamp_micros(time).ok_or_else(|| format!("invalid time: {time}"))?,
            partition: partition_of(partitions, row)?,
            todo,
        };
        videos.push((shard, video));
    }
    Ok(())
}

fn partition_of(partitions: &MapArray, row: usize) -> Result<Vec<(String, String)>, String> {
    let entries = partitions.value(row);
    let text = |column: usize| {
        entries
            .column(column)
            .as_any()
            .downcast_ref::<StringArray>()
            .ok_or("the map `partition` does not contain texts")
    };
    let (names, values) = (text(0)?, text(1)?);
    Ok((0..names.len()).map(|i| (names.value(i).to_owned(), values.value(i).to_owned())).collect())
}
