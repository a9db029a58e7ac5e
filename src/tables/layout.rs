//! The layout of a table's Parquet files: compression, row groups, indexes and provenance metadata.

use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{SCHEMA_VERSION, SCHEMA_VERSION_KEY, Table};

/// DuckDB and Spark read row groups in parallel and skip whole ones. This is small enough for parallelism and large
/// enough for efficient skipping.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;

/// Limit of a row group's encoded size, which bounds the writer's memory for wide rows (full scores, embeddings).
const ROW_GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Maximum length of a bound in the indexes. The usual 64 bytes would not distinguish the URIs of one archive, which
/// share a long prefix.
const BOUND_BYTES_MAX: usize = 256;

/// Probability that a bloom filter directs a reader to a row group without the video.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

/// The origin of a file, which is the same for all files of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The run that wrote the file.
    pub run_id: String,
    /// The run's shard, from 0.
    pub shard: u32,
    /// Hash of the models and of everything in the job that affects rows.
    pub fingerprint: String,
    /// Id of the actions model, if the job has one. Also in the path of the actions table.
    pub actions_model: Option<String>,
    /// Id of the persons model, if the job has one. Also in the path of the persons table.
    pub persons_model: Option<String>,
}

impl Provenance {
    /// Id of the model that produced the table's rows, as in the `model=` of its path. Videos and thumbnails have none.
    pub fn model(&self, table: Table) -> Option<&str> {
        match table {
            Table::Videos | Table::Thumbnails => None,
            Table::Actions => self.actions_model.as_deref(),
            Table::Persons => self.persons_model.as_deref(),
        }
    }

    /// The `vidindex.*` entries of the file's key/value metadata.
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

/// The layout of a table's files: zstd, page indexes on every column, a bloom filter on `video_id` (a hash, for which
/// minima and maxima are useless), and row groups with limited rows and bytes.
///
/// # Errors
/// None in practice, because the tables only use columns that Parquet supports.
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
        // Pictures are already compressed, are all different, and are never queried by range.
        Table::Thumbnails => layout
            .set_column_compression(ColumnPath::from("jpeg"), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(ColumnPath::from("jpeg"), false)
            .set_column_statistics_enabled(ColumnPath::from("jpeg"), EnabledStatistics::None),
        // Vectors are never queried by range, and their numbers rarely repeat.
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

/// The sort columns by the index of their leaf column. A nested column has several leaves.
fn sorting_columns(table: Table) -> Result<Vec<SortingColumn>, ParquetError> {
    let leaves = ArrowSchemaConverter::new().convert(&table.schema())?;
    let index = |name: &&str| {
        let leaf = leaves.columns().iter().position(|leaf| leaf.path().string() == *name)?;
        Some(SortingColumn { column_idx: i32::try_from(leaf).ok()?, descending: false, nulls_first: false })
    };
    Ok(table.sort_columns().iter().filter_map(index).collect())
}
