//! The tables as DuckDB sees them below a folder or bucket, also where they have no files. `current.rs` has the `current_*`
//! views over them.

use super::{Dialect, Table};

impl Table {
    /// The table's files as DuckDB reads them, below its variable `index`.
    pub fn duckdb_files(self) -> String {
        format!(
            "FROM read_parquet(getvariable('index') || '/{self}/**/*.parquet', hive_partitioning = true, union_by_name = true)"
        )
    }

    /// DuckDB statements that create the view of the table below the variable `index`. DuckDB cannot read a table without
    /// files, so whether there are any is looked up when the statements run.
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

    /// A query for DuckDB with the table's columns and no rows.
    pub(crate) fn duckdb_nothing(self) -> String {
        let columns = self.columns().iter().chain(self.partition_columns());
        let columns =
            columns.map(|column| format!("NULL::{} AS \"{}\"", column.sql_type(Dialect::DuckDb), column.name));
        format!("SELECT {} WHERE false", columns.collect::<Vec<_>>().join(", "))
    }
}
