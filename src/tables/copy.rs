//! Copies rows of a table to another file: converts them to today's columns, and sets the run that copies them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::file::metadata::ParquetMetaData;

use super::{SCHEMA_VERSION, SCHEMA_VERSION_KEY, Table};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Checks the schema version of a file. The error says that the version is not supported.
pub(crate) fn check_version(file: &ParquetMetaData) -> Result<(), String> {
    let pairs = file.file_metadata().key_value_metadata();
    let pair = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == SCHEMA_VERSION_KEY));
    match pair.and_then(|pair| pair.value.as_ref()?.parse::<u32>().ok()) {
        Some(version) if version > SCHEMA_VERSION => {
            Err(format!("it has schema version {version}, but vidindex {VERSION} supports {SCHEMA_VERSION}"))
        }
        _ => Ok(()),
    }
}

/// Converts a batch to the table's columns. Columns that an older vidindex did not write become null.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let read = batch.schema();
    if let Some(field) = read.fields().iter().find(|field| schema.column_with_name(field.name()).is_none()) {
        return Err(format!("it has a column `{}`, which vidindex {VERSION} does not support", field.name()));
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| error.to_string())
}

/// Assigns the rows to this run and, in `videos`, to this shard.
pub(crate) fn of_run(table: Table, batch: &RecordBatch, run_id: &str, shard: u32) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    replace(batch, |name| match name {
        "run_id" => Some(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(run_id, rows))) as ArrayRef),
        "shard" if table == Table::Videos => Some(Arc::new(Int64Array::from_value(i64::from(shard), rows))),
        _ => None,
    })
}

/// Replaces those columns of a batch for which `new` returns one.
pub(crate) fn replace(batch: &RecordBatch, new: impl Fn(&str) -> Option<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| new(field.name()).unwrap_or_else(|| Arc::clone(column)));
    RecordBatch::try_new(schema.clone(), columns.collect())
}
