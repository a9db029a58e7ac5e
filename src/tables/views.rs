//! The views over an index: in SQL that DuckDB, Spark and Athena understand alike, but for where the files are.

use super::{Dialect, Table};

impl Table {
    /// Of each video the rows of its latest good indexing, as a query over the tables: the view `current_<table>`.
    ///
    /// Of rows as old as each other, which are copies of one, that of the later run counts, in each view: two compactions
    /// at once make such, and in Athena, whose timestamps are of milliseconds, a row and its copy are.
    ///
    /// A later indexing that failed hides nothing; what an indexing without a model leaves out is taken from the latest
    /// with one; a video that has gone from the source has no rows. The join on a grouped column, in place of a window,
    /// lets engines hand a filter on `video_id` down to the files.
    pub fn current_rows(self) -> String {
        let (counts, hidden) = match self {
            Self::Videos => ("status <> 'failed'", "\nWHERE videos.status NOT IN ('failed', 'deleted')"),
            Self::Thumbnails => ("status <> 'failed'", ""),
            // The run that found a video gone has no rows of it in these.
            Self::Actions => ("status = 'deleted' OR (status <> 'failed' AND actions_model IS NOT NULL)", ""),
            Self::Persons => ("status = 'deleted' OR (status <> 'failed' AND persons_model IS NOT NULL)", ""),
        };
        format!(
            "SELECT {self}.*\n\
             FROM {self}\n\
             JOIN (\n    \
                 SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id\n    \
                 FROM videos\n    \
                 WHERE {counts}\n    \
                 GROUP BY video_id\n\
             ) AS latest ON {self}.video_id = latest.video_id AND {self}.run_id = latest.run_id{hidden}"
        )
    }

    /// The table's files as DuckDB reads them, below its variable `index`.
    pub fn duckdb_files(self) -> String {
        format!(
            "FROM read_parquet(getvariable('index') || '/{self}/**/*.parquet', hive_partitioning = true, union_by_name = true)"
        )
    }

    /// DuckDB statements that make the view of the table below the variable `index`, also where it has no files: reading
    /// none would be an error. Which of the two is found when these statements run.
    pub fn duckdb_view(self) -> String {
        let quoted = |sql: String| sql.replace('\'', "''");
        let (files, nothing) = (quoted(self.duckdb_files()), quoted(self.duckdb_nothing()));
        format!(
            "SET VARIABLE {self}_rows = (\n    \
                 SELECT CASE WHEN count(*) > 0\n        \
                 THEN '{files}'\n        \
                 ELSE '{nothing}' END\n    \
                 FROM (FROM glob(getvariable('index') || '/{self}/**/*.parquet') LIMIT 1)\n\
             );\n\
             CREATE OR REPLACE VIEW {self} AS FROM query(getvariable('{self}_rows'));\n"
        )
    }

    /// A table without files, for DuckDB, which knows no columns where it finds none.
    pub(crate) fn duckdb_nothing(self) -> String {
        let columns = self.columns().iter().chain(self.partition_columns());
        let columns =
            columns.map(|column| format!("NULL::{} AS \"{}\"", column.sql_type(Dialect::DuckDb), column.name));
        format!("SELECT {} WHERE false", columns.collect::<Vec<_>>().join(", "))
    }
}
