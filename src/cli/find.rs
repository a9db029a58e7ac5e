//! `vidindex find`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use crate::error::Result;
use crate::query::{self, Moments};

/// Find the moments of an action: when it starts, ends and peaks, the strongest moments first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex find jobs/s3.toml \"riding a bike\"
  vidindex find /data/index wave --min-score 0.8 --min-seconds 3 --format csv

A moment joins the segments of a video that have the label among their best ones (top_k of the job) and are less than a
second apart. Its peak is the middle of the segment with the highest score. An unknown label is an error, which names similar
ones. Needs DuckDB, as `query` does.")]
pub(super) struct Find {
    #[command(flatten)]
    index: IndexArgs,
    /// The label, in upper or lower case.
    label: String,
    /// Smallest score of a segment.
    #[arg(long, default_value_t = 0.5)]
    min_score: f64,
    /// Smallest length of a moment, seconds.
    #[arg(long, default_value_t = 0.0)]
    min_seconds: f64,
    /// The format of results.
    #[arg(long, value_enum, default_value = "table", env = "VIDINDEX_FORMAT")]
    format: query::Format,
    /// The DuckDB command-line program, if it is not `duckdb` on the PATH.
    #[arg(long, value_name = "PROGRAM", env = "VIDINDEX_DUCKDB")]
    duckdb: Option<PathBuf>,
}

impl Find {
    pub(super) async fn run(self) -> Result<u8> {
        let Self { index, label, min_score, min_seconds, format, duckdb } = self;
        let index = index.index()?;
        let sql = Some(Moments { label, min_score, min_seconds }.sql());
        query::run(&index, &query::Query { sql, file: None, parameters: Vec::new(), format }, duckdb.as_deref()).await
    }
}
