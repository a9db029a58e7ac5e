//! The tables that readers query: their rows, columns and types, the paths of their files, and the layout of a file.
//!
//! Columns that are constant within a file (`dt`, `model`, the job's own partition columns) are only in the file's
//! path, as in Hive: `actions/model=<id>/dt=2026-11-01/part-<run>-<shard>.parquet`. Integers are signed, because Spark
//! reads unsigned ones as decimals.

mod actions;
mod column;
pub(crate) mod copy;
pub mod current;
mod label_scores;
mod layout;
mod moments;
mod persons;
pub(crate) mod read;
mod thumbnails;
mod track_actions;
mod tracks;
mod videos;
mod views;

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use percent_encoding::percent_encode_byte;
use serde::{Deserialize, Serialize};

pub use actions::ActionRow;
pub use column::{Column, Dialect};
pub use label_scores::LabelScore;
pub use layout::{Provenance, writer_properties};
pub use moments::current_moments;
pub(crate) use moments::moments;
pub use persons::PersonRow;
pub use thumbnails::ThumbnailRow;
pub use track_actions::current_track_actions;
pub use tracks::{current_tracks, filled_persons};
pub use videos::{DecodeMode, VideoRow};

pub use crate::video_status::VideoStatus;

/// Version of the tables' schema, in the metadata of every file. It increases if a column changes its name, type or
/// meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// Metadata key of the schema version.
pub(crate) const SCHEMA_VERSION_KEY: &str = "vidindex.schema_version";

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// One row per video and run, including failed videos.
    Videos,
    /// One row per segment.
    Actions,
    /// One row per box.
    Persons,
    /// One row per thumbnail, if the job asks for them.
    Thumbnails,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Videos, Self::Actions, Self::Persons, Self::Thumbnails];

    /// The table's name, which is also its directory in the output.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Videos => "videos",
            Self::Actions => "actions",
            Self::Persons => "persons",
            Self::Thumbnails => "thumbnails",
        }
    }

    /// What a row of the table is.
    pub fn description(self) -> &'static str {
        match self {
            Self::Videos => "One row per video and run, including failed videos.",
            Self::Actions => "One row per segment of a video, with the labels that the model scored highest.",
            Self::Persons => "One row per box that the detector kept in a sampled frame.",
            Self::Thumbnails => "One row per picture that was kept for the report, if the job asks for them.",
        }
    }

    /// The columns of the table's files, in order.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Videos => &videos::COLUMNS,
            Self::Actions => &actions::COLUMNS,
            Self::Persons => &persons::COLUMNS,
            Self::Thumbnails => &thumbnails::COLUMNS,
        }
    }

    /// The columns that are only in the paths of the files, in order. The job's own come before `dt`.
    pub fn partition_columns(self) -> &'static [Column] {
        column::partitions(self)
    }

    /// [`Self::columns`] as the schema of the files.
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; Table::ALL.len()]> =
            LazyLock::new(|| Table::ALL.map(|table| column::schema(table.columns())));
        let [videos, actions, persons, thumbnails] = &*SCHEMAS;
        Arc::clone(match self {
            Self::Videos => videos,
            Self::Actions => actions,
            Self::Persons => persons,
            Self::Thumbnails => thumbnails,
        })
    }

    /// The columns that the files are sorted by, ascending.
    pub fn sort_columns(self) -> &'static [&'static str] {
        match self {
            Self::Videos => &["uri"],
            Self::Actions => &["uri", "start_seconds"],
            Self::Persons | Self::Thumbnails => &["uri", "time_seconds"],
        }
    }

    /// Whether the rows come from a model, whose id is in the path.
    pub fn has_model(self) -> bool {
        matches!(self, Self::Actions | Self::Persons)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

/// A row of one of the tables.
pub trait Row: Sized {
    /// The table that the row belongs to.
    const TABLE: Table;

    /// Converts rows to columns of [`Table::schema`].
    ///
    /// # Errors
    /// If a list column has more than 2^31 elements in all (for 400 scores: five million rows).
    fn to_batch(rows: &[Self]) -> Result<RecordBatch, ArrowError>;
}

/// Key of a shard's file of a table, as readers see it: `actions/model=<id>/dt=2026-11-01/part-<run>-<shard>.parquet`.
///
/// `partition_path` consists of `dt=…` and the job's own columns, already escaped. `model` is escaped here. Tables
/// without a model (see [`Table::has_model`]) have no `model=` in the key.
pub fn part_key(table: Table, model: Option<&str>, partition_path: &str, run_id: &str, shard: u32) -> String {
    let mut key = format!("{table}/");
    if let Some(model) = model {
        key.push_str("model=");
        escape_into(&mut key, model);
        key.push('/');
    }
    key.push_str(partition_path);
    key.push('/');
    key.push_str(&part_name(run_id, shard));
    key
}

/// A shard's index as it is used in keys. Sorts as text for up to a million shards.
pub fn shard_id(index: u32) -> String {
    format!("{index:06}")
}

/// `part-<run>-<shard>.parquet`: the name of every file of a shard, in the directory of its table and partition.
pub(crate) fn part_name(run_id: &str, shard: u32) -> String {
    format!("part-{run_id}-{}.parquet", shard_id(shard))
}

/// Percent-encodes what Hive encodes in a partition's value: some ASCII characters. Others stay, because Spark decodes byte
/// by byte.
pub(crate) fn escape_into(path: &mut String, value: &str) {
    for c in value.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{}[]^<>|".contains(c) {
            path.push_str(percent_encode_byte(c as u8));
        } else {
            path.push(c);
        }
    }
}

/// The element of a list: named as the Parquet specification requires, and never null.
fn element(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

/// A column of lists of floats. `None` is null.
fn float_lists<'a>(lists: impl Iterator<Item = Option<&'a [f32]>> + Clone) -> Result<ArrayRef, ArrowError> {
    let lengths = lists.clone().map(|list| list.map_or(0, <[f32]>::len));
    let offsets = offsets(lengths)?;
    let nulls: NullBuffer = lists.clone().map(|list| list.is_some()).collect();
    let values: Float32Array = lists.flatten().flatten().copied().map(Some).collect();
    let list = ListArray::try_new(element(DataType::Float32), offsets, Arc::new(values), Some(nulls))?;
    Ok(Arc::new(list))
}

/// The start of each list. Checks for the overflow that `OffsetBuffer::from_lengths` would panic on.
fn offsets(lengths: impl Iterator<Item = usize>) -> Result<OffsetBuffer<i32>, ArrowError> {
    let mut end = 0_usize;
    let mut offsets = vec![0_i32];
    for length in lengths {
        end = end.saturating_add(length);
        offsets.push(i32::try_from(end).map_err(|_| ArrowError::OffsetOverflowError(end))?);
    }
    Ok(OffsetBuffer::new(offsets.into()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn partition_values_are_escaped_as_hive_does_it() {
        let mut escaped = String::new();
        escape_into(&mut escaped, "a/b=c:d%e f\u{1}ü");
        assert_eq!(escaped, "a%2Fb%3Dc%3Ad%25e f%01ü");
    }

    /// One line per column: `name type`, followed by `?` if it is nullable.
    fn columns(table: Table) -> String {
        let schema = table.schema();
        let lines = schema.fields().iter().map(|field| {
            let kind = match field.data_type() {
                DataType::Timestamp(unit, Some(zone)) => format!("timestamp {unit:?} {zone}"),
                DataType::List(element) if element.data_type().is_nested() => {
                    let DataType::Struct(fields) = element.data_type() else { panic!("no struct: {element}") };
                    let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
                    format!("list of {{{}}}", fields.join(", "))
                }
                DataType::List(element) => format!("list of {}", element.data_type()),
                other => other.to_string(),
            };
            format!("{} {kind}{}", field.name(), if field.is_nullable() { "?" } else { "" })
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_columns_are_the_ones_that_readers_know() {
        assert_eq!(
            columns(Table::Videos),
            "video_id Utf8\nuri Utf8\netag Utf8\nversion_id Utf8?\nsize_bytes Int64\nlast_modified timestamp Microsecond UTC\n\
             status Utf8\nerror_kind Utf8?\nerror_message Utf8?\nfailures Int64?\ncontainer Utf8?\ncodec Utf8?\nwidth Int32?\n\
             height Int32?\nrotation Int32?\nmirrored Boolean?\nframes_per_second Float64?\nstart_seconds Float64?\n\
             duration_seconds Float64?\nframes_decoded Int64\nframes_presented Int64?\ndecode_mode Utf8?\nfull_decode_reason Utf8?\nsegments Int64\nboxes Int64\nactions_model Utf8?\n\
             persons_model Utf8?\nprecision Utf8?\nfingerprint Utf8\nrun_id Utf8\nshard Int64\n\
             indexed_at timestamp Microsecond UTC\ndecode_seconds Float64\ninference_seconds Float64"
        );
        assert_eq!(
            columns(Table::Actions),
            "video_id Utf8\nuri Utf8\nsegment Int64\nstart_seconds Float64\nend_seconds Float64\nframes Int64\n\
             top_label Utf8?\ntop_score Float32?\ntop list of {label_id Int32, label Utf8, score Float32}\n\
             scores list of Float32?\nembedding list of Float32?\nrun_id Utf8"
        );
        assert_eq!(
            columns(Table::Persons),
            "video_id Utf8\nuri Utf8\nsegment Int64?\ntime_seconds Float64\nframe Int64\nbox Int32\nlabel Utf8\n\
             x1 Float32\ny1 Float32\nx2 Float32\ny2 Float32\nconfidence Float32\n\
             actions list of {label_id Int32, label Utf8, score Float32}?\ntrack_id Int64?\nrun_id Utf8"
        );
        assert_eq!(
            columns(Table::Thumbnails),
            "video_id Utf8\nuri Utf8\nsegment Int64?\ntime_seconds Float64\nframe Int64\nwidth Int32\nheight Int32\n\
             jpeg Binary\nrun_id Utf8"
        );
    }

    #[test]
    fn no_rows_make_an_empty_batch_of_the_same_columns() {
        assert_eq!(VideoRow::to_batch(&[]).unwrap().schema(), Table::Videos.schema());
        assert_eq!(ActionRow::to_batch(&[]).unwrap().schema(), Table::Actions.schema());
        assert_eq!(PersonRow::to_batch(&[]).unwrap().num_rows(), 0);
    }

    #[test]
    fn a_part_key_has_table_model_and_partition() {
        assert_eq!(
            part_key(Table::Videos, None, "dt=2026-11-01", "20261123T073712123Z-ab12cd", 7),
            "videos/dt=2026-11-01/part-20261123T073712123Z-ab12cd-000007.parquet"
        );
        assert_eq!(
            part_key(Table::Actions, Some("slow/fast=r50 v1"), "camera=cam-1/dt=2026-11-01", "r", 1_234_567),
            "actions/model=slow%2Ffast%3Dr50 v1/camera=cam-1/dt=2026-11-01/part-r-1234567.parquet"
        );
    }

    #[test]
    fn lists_beyond_the_offsets_are_an_error_not_a_panic() {
        assert!(offsets([i32::MAX as usize, 1].into_iter()).is_err());
    }
}
