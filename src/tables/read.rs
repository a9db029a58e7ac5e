//! Reads selected columns of the tables, regardless of their encoding, for `plan`, `prune` and `report`.

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, Result};
use crate::store::{ObjectMeta, Store, StoreErrorKind};
use crate::telemetry::Steps;

/// Number of files that are read concurrently.
const READS_MAX: usize = 16;

/// Passes the selected columns of every Parquet file of the videos table to `each`, batch by batch, in any order of
/// files. An output without the table has no files. If `each` returns an error, it is reported as a problem of the
/// table, with `hint`.
///
/// # Errors
/// If the output cannot be accessed or a file cannot be read.
pub(crate) async fn read_videos<const N: usize>(
    output: &dyn Store,
    columns: [&str; N],
    hint: &str,
    mut each: impl FnMut(&ObjectMeta, &RecordBatch) -> Result<(), String>,
) -> Result<()> {
    let reads = output
        .list("videos/")
        .try_filter_map(async |object| Ok(Some(object).filter(|object| is_table_file(&object.key))))
        .map(async |object| {
            let object = object?;
            let bytes = output.get(&object.key).await;
            Ok::<_, Error>((object, bytes))
        })
        .buffer_unordered(READS_MAX);
    let mut reads = std::pin::pin!(reads);
    let steps = Steps::start("files of videos read", None);
    while let Some((object, bytes)) = reads.try_next().await? {
        steps.step();
        match bytes {
            Ok(bytes) => read_file(bytes, columns, |batch| each(&object, batch)).map_err(|problem| {
                let uri = output.uri(&object.key);
                Error::failed(format!("failed to read {uri} as a table of indexed videos: {problem}")).with_hint(hint)
            })?,
            // The file was deleted after the listing.
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Passes the selected columns of a Parquet file to `each`, batch by batch.
pub(crate) fn read_file<const N: usize>(
    file: Bytes,
    columns: [&str; N],
    mut each: impl FnMut(&RecordBatch) -> Result<(), String>,
) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    for batch in builder.with_projection(mask).build().map_err(|error| error.to_string())? {
        each(&batch.map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

/// Null becomes the empty string, which differs from every fingerprint, status and id.
pub(crate) fn value(column: &StringArray, row: usize) -> &str {
    if column.is_null(row) { "" } else { column.value(row) }
}

/// None for a null.
pub(crate) fn optional_value(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

pub(crate) fn text_column(batch: &RecordBatch, name: &str) -> Result<StringArray, String> {
    let column = column(batch, name, &DataType::Utf8)?;
    column.as_any().downcast_ref::<StringArray>().cloned().ok_or_else(|| format!("column `{name}` is not a text"))
}

pub(crate) fn time_column(batch: &RecordBatch, name: &str) -> Result<TimestampMicrosecondArray, String> {
    let column = column(batch, name, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
    column
        .as_any()
        .downcast_ref::<TimestampMicrosecondArray>()
        .cloned()
        .ok_or_else(|| format!("column `{name}` is not a timestamp"))
}

pub(crate) fn whole_number_column(batch: &RecordBatch, name: &str) -> Result<Int64Array, String> {
    let column = column(batch, name, &DataType::Int64)?;
    column.as_any().downcast_ref::<Int64Array>().cloned().ok_or_else(|| format!("column `{name}` is not a number"))
}

pub(crate) fn number_column(batch: &RecordBatch, name: &str) -> Result<Float64Array, String> {
    let column = column(batch, name, &DataType::Float64)?;
    column.as_any().downcast_ref::<Float64Array>().cloned().ok_or_else(|| format!("column `{name}` is not a number"))
}

/// A column that an older vidindex did not write. `None` if the file lacks it. `read` is one of the functions above.
pub(crate) fn optional<T>(
    batch: &RecordBatch,
    name: &str,
    read: impl FnOnce(&RecordBatch, &str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    batch.column_by_name(name).map(|_| read(batch, name)).transpose()
}

/// The column cast to `to`. Another tool that compacted the table may have chosen another encoding.
fn column(batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
    cast(column, to).map_err(|error| format!("column `{name}`: {error}"))
}

fn is_table_file(key: &str) -> bool {
    key.ends_with(".parquet") && !key.split('/').any(|part| part == "_vidindex")
}
