//! Copying rows from one file of a table to another: columns as they are today, and the run that copied them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::file::metadata::ParquetMetaData;

use super::{SCHEMA_VERSION, SCHEMA_VERSION_KEY, Table};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The error says that the file is of a schema version that is not known here.
pub(crate) fn check_version(file: &ParquetMetaData) -> Result<(), String> {
    let pairs = file.file_metadata().key_value_metadata();
    let pair = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == SCHEMA_VERSION_KEY));
    match pair.and_then(|pair| pair.value.as_ref()?.parse::<u32>().ok()) {
        Some(version) if version > SCHEMA_VERSION => {
            Err(format!("it is of schema version {version}, and vidindex {VERSION} knows {SCHEMA_VERSION}"))
        }
        _ => Ok(()),
    }
}

/// The columns of the table, those null that an older vidindex did not write.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let read = batch.schema();
    if let Some(field) = read.fields().iter().find(|field| schema.column_with_name(field.name()).is_none()) {
        return Err(format!("it has a column `{}`, which vidindex {VERSION} does not know", field.name()));
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| error.to_string())
}

/// The rows as this run's and, of `videos`, this shard's.
pub(crate) fn of_run(table: Table, batch: &RecordBatch, run_id: &str, shard: u32) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    replace(batch, |name| match name {
        "run_id" => Some(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(run_id, rows))) as ArrayRef),
        "shard" if table == Table::Videos => Some(Arc::new(Int64Array::from_value(i64::from(shard), rows))),
        _ => None,
    })
}

/// The batch with these columns in place of its own.
pub(crate) fn replace(batch: &RecordBatch, new: impl Fn(&str) -> Option<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| new(field.name()).unwrap_or_else(|| Arc::clone(column)));
    RecordBatch::try_new(schema.clone(), columns.collect())
}
