//! How a table's Parquet file is laid out: compression, row groups, indexes, and the metadata that says who made it.

use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{SCHEMA_VERSION, SCHEMA_VERSION_KEY, Table};

/// DuckDB and Spark read row groups in parallel and skip them whole: many enough for the one, large enough for the other.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;

/// Bounds what a writer holds where rows are wide (full scores, embeddings). Of encoded data.
const ROW_GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of a bound in the indexes. Addresses of one archive share a long prefix: the usual 64 bytes would tell none apart.
const BOUND_BYTES_MAX: usize = 256;

/// Chance that a bloom filter sends a reader into a row group without the video.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

/// Who made a file: the same for all files of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The run.
    pub run_id: String,
    /// The run's shard, from 0.
    pub shard: u32,
    /// Hash of the models and of everything in the job that changes rows.
    pub fingerprint: String,
    /// The model's id, where the job has an actions model; also in the path of the actions table.
    pub actions_model: Option<String>,
    /// Likewise of the persons table.
    pub persons_model: Option<String>,
}

impl Provenance {
    /// The model whose rows the table holds: the `model=` in its path. Videos and thumbnails have none.
    pub fn model(&self, table: Table) -> Option<&str> {
        match table {
            Table::Videos | Table::Thumbnails => None,
            Table::Actions => self.actions_model.as_deref(),
            Table::Persons => self.persons_model.as_deref(),
        }
    }

    /// `vidindex.*` of the file's key/value metadata.
    fn key_values(&self) -> Vec<KeyValue> {
        let mut values = vec![
            KeyValue::new("vidindex.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            KeyValue::new(SCHEMA_VERSION_KEY.to_owned(), SCHEMA_VERSION.to_string()),
            KeyValue::new("vidindex.run_id".to_owned(), self.run_id.clone()),
            KeyValue::new("vidindex.shard".to_owned(), self.shard.to_string()),
            KeyValue::new("vidindex.fingerprint".to_owned(), self.fingerprint.clone()),
        ];
        if let Some(model) = &self.actions_model {
            values.push(KeyValue::new("vidindex.actions_model".to_owned(), model.clone()));
        }
        if let Some(model) = &self.persons_model {
            values.push(KeyValue::new("vidindex.persons_model".to_owned(), model.clone()));
        }
        values
    }
}

/// The layout of a table's files: zstd, page indexes on every column, a bloom filter on `video_id` (a hash, of which
/// minima and maxima tell nothing), row groups bounded in rows and bytes.
///
/// # Errors
/// None in practice: the table's columns are Parquet's.
pub fn writer_properties(table: Table, provenance: &Provenance) -> Result<WriterProperties, ParquetError> {
    let layout = WriterProperties::builder()
        .set_created_by(concat!("vidindex version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(provenance.key_values()))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(BOUND_BYTES_MAX))
        .set_column_index_truncate_length(Some(BOUND_BYTES_MAX))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_column_bloom_filter_enabled(ColumnPath::from("video_id"), true)
        .set_column_bloom_filter_fpp(ColumnPath::from("video_id"), BLOOM_FALSE_POSITIVES)
        .set_sorting_columns(Some(sorting_columns(table)?));
    Ok(match table {
        // Pictures are compressed already, no two are the same, and nobody looks for one between two others.
        Table::Thumbnails => layout
            .set_column_compression(ColumnPath::from("jpeg"), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(ColumnPath::from("jpeg"), false)
            .set_column_statistics_enabled(ColumnPath::from("jpeg"), EnabledStatistics::None),
        // Nor for a vector between two others, and hardly a number in one comes twice.
        Table::Actions => ["scores", "embedding"].into_iter().fold(layout, |layout, name| {
            let values = ColumnPath::new([name, "list", "element"].map(str::to_owned).to_vec());
            layout
                .set_column_dictionary_enabled(values.clone(), false)
                .set_column_statistics_enabled(values, EnabledStatistics::None)
        }),
        _ => layout,
    }
    .build())
}

/// The sort columns by the index of their leaf, of which nested columns have several.
fn sorting_columns(table: Table) -> Result<Vec<SortingColumn>, ParquetError> {
    let leaves = ArrowSchemaConverter::new().convert(&table.schema())?;
    let index = |name: &&str| {
        let leaf = leaves.columns().iter().position(|leaf| leaf.path().string() == *name)?;
        Some(SortingColumn { column_idx: i32::try_from(leaf).ok()?, descending: false, nulls_first: false })
    };
    Ok(table.sort_columns().iter().filter_map(index).collect())
}
