//! `vidindex query`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use crate::error::Result;
use crate::query;

/// Query the tables of an index in SQL, with DuckDB.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex query jobs/s3.toml \"SELECT top_label, count(*) FROM current_actions GROUP BY ALL\"
  vidindex query /data/index -f schemas/queries/coverage.sql --format csv
  vidindex query jobs/s3.toml --like cam-1/a.mp4@75   segments like that of minute 1:15
  vidindex query /data/index -f moments.sql --param label=wave
  vidindex query s3://index/                          DuckDB's shell, with the views in place

Views: videos, actions and persons contain the rows of every run; current_videos, current_actions and current_persons those of
each video's latest successful run. Times are in UTC.")]
pub(super) struct Query {
    #[command(flatten)]
    index: IndexArgs,
    /// The query. Without it, SQL is read from standard input; on a terminal, DuckDB's shell opens.
    #[arg(conflicts_with = "file")]
    sql: Option<String>,
    /// Read the SQL from a file.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Find the segments that are most similar to the one at this moment, by their embeddings.
    #[arg(long, value_name = "VIDEO@SECONDS", conflicts_with_all = ["sql", "file"])]
    like: Option<query::Moment>,
    /// A value for the query, which reads it as getvariable('NAME'). May be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    parameters: Vec<query::Parameter>,
    /// The format of results.
    #[arg(long, value_enum, default_value = "table", env = "VIDINDEX_FORMAT")]
    format: query::Format,
    /// The DuckDB command-line program, if it is not `duckdb` on the PATH.
    #[arg(long, value_name = "PROGRAM", env = "VIDINDEX_DUCKDB")]
    duckdb: Option<PathBuf>,
}

impl Query {
    pub(super) async fn run(self) -> Result<u8> {
        let Self { index, sql, file, like, parameters, format, duckdb } = self;
        let index = index.index()?;
        let sql = sql.or(like.map(|moment| moment.likeness_sql()));
        query::run(&index, &query::Query { sql, file, parameters, format }, duckdb.as_deref()).await
    }
}
