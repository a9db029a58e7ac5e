//! Reads the tables of an index as JSON values.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};

/// All rows of a table, partition by partition, without the partition columns.
pub(crate) fn rows(index: &Path, table: &str) -> Vec<Map<String, Value>> {
    let mut rows = Vec::new();
    for file in files(&index.join(table)) {
        let file = std::fs::File::open(file).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            rows.extend((0..batch.num_rows()).map(|row| record(&batch, row)));
        }
    }
    rows
}

/// All rows of a table, sorted and without the columns that differ from run to run. The results are equal for two
/// indexes of the same videos and models.
pub(crate) fn stable_rows(index: &Path, table: &str) -> Vec<String> {
    let mut lines: Vec<String> = rows(index, table)
        .into_iter()
        .map(|mut row| {
            for column in ["run_id", "indexed_at", "decode_seconds", "inference_seconds", "shard"] {
                row.remove(column);
            }
            Value::Object(row).to_string()
        })
        .collect();
    lines.sort();
    lines
}

/// Checks that each video has one row, that its counts match the other tables, and that each status other than `ok` has
/// an error.
pub(crate) fn assert_counts(index: &Path) {
    let count = |table: &str| {
        let mut counts = std::collections::BTreeMap::<String, i64>::new();
        for row in rows(index, table) {
            *counts.entry(row["video_id"].to_string()).or_default() += 1;
        }
        counts
    };
    let (videos, mut actions, mut persons) = (rows(index, "videos"), count("actions"), count("persons"));
    assert_eq!(count("videos").len(), videos.len(), "a video has more than one row");
    for row in videos {
        let id = row["video_id"].to_string();
        let found = (actions.remove(&id).unwrap_or(0), persons.remove(&id).unwrap_or(0));
        assert_eq!(found, (row["segments"].as_i64().unwrap(), row["boxes"].as_i64().unwrap()), "{row:?}");
        assert_eq!(row["status"] == "ok", row["error_kind"].is_null(), "{row:?}");
        assert_eq!(row["status"] == "ok", row["error_message"].is_null(), "{row:?}");
        assert!(row["status"] != "failed" || found == (0, 0), "{row:?}");
    }
    assert!(actions.is_empty() && persons.is_empty(), "rows of a video that is not in `videos`");
}

/// The Parquet files below a folder, sorted by path.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn record(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema();
    let named = schema.fields().iter().zip(batch.columns());
    named.map(|(field, column)| (field.name().clone(), value(column.as_ref(), row))).collect()
}

fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::Binary => json!(column.as_binary::<i32>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => json!(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(..) => json!(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            (0..list.len()).map(|i| value(list.as_ref(), i)).collect()
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            Value::Object(fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), value(c.as_ref(), row))).collect())
        }
        other => panic!("a column of type {other}"),
    }
}
