//! Data files of a report in Parquet. Columns have names, and keys are not encoded.

use std::fs::File;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use chrono::DateTime;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Batches, archived, version_id};
use crate::store::ObjectMeta;
use crate::tables::read::{optional, text_column, time_column, value, whole_number_column};

const COLUMNS: [&str; 8] =
    ["key", "size", "last_modified_date", "e_tag", "version_id", "is_latest", "is_delete_marker", "storage_class"];

/// Reads the whole file, or until the receiver is gone.
pub(super) fn read(file: File, batches: &mut Batches) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let reader = builder.with_projection(mask).with_batch_size(super::BATCH).build();
    for batch in reader.map_err(|error| error.to_string())? {
        if !add(&batch.map_err(|error| error.to_string())?, batches)? {
            break;
        }
    }
    Ok(())
}

fn add(batch: &RecordBatch, batches: &mut Batches) -> Result<bool, String> {
    let (keys, etags) = (text_column(batch, "key")?, text_column(batch, "e_tag")?);
    let (sizes, times) = (whole_number_column(batch, "size")?, time_column(batch, "last_modified_date")?);
    let (latest, markers) = (flag_column(batch, "is_latest"), flag_column(batch, "is_delete_marker"));
    let classes = optional(batch, "storage_class", text_column)?;
    let versions = optional(batch, "version_id", text_column)?;
    for row in 0..batch.num_rows() {
        let is = |column: Option<&BooleanArray>, value| {
            column.is_some_and(|column| column.is_valid(row) && column.value(row) == value)
        };
        if is(latest, false) || is(markers, true) {
            continue;
        }
        let Some(key) = batches.key(keys.value(row)) else { continue };
        let time = times.value(row);
        let object = ObjectMeta {
            size_bytes: u64::try_from(sizes.value(row)).map_err(|error| format!("the size of {key:?}: {error}"))?,
            etag: etags.value(row).trim_matches('"').to_owned(),
            version_id: versions.as_ref().and_then(|versions| version_id(value(versions, row))),
            last_modified: DateTime::from_timestamp_micros(time).ok_or_else(|| format!("invalid time: {time}"))?,
            archived: classes.as_ref().and_then(|classes| archived(value(classes, row))),
            key: key.to_owned(),
        };
        if !batches.push(object) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Only in reports of all versions.
fn flag_column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a BooleanArray> {
    batch.column_by_name(name)?.as_boolean_opt()
}
