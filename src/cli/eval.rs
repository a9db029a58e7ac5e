//! `vidindex eval`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use crate::console;
use crate::error::Result;
use crate::eval::{self, TruthFormat};

/// Compare an index with the ground truth of a data set: top-1, top-5, mean class accuracy, mAP, AP of persons.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex eval jobs/kinetics.toml --truth val.csv --format kinetics
  vidindex eval jobs/ucf101.toml --truth testlist01.txt --format ucf101 --json
  vidindex eval jobs/mine.toml --truth labels.csv                  with the columns video and label

Videos are matched by the names of their files, labels without regard to case, spaces and punctuation. A video's score of a
label is the mean over its segments (Charades: the largest), of the labels that the index has of each: set `top_k` in
[actions] to the number of classes for exact figures. Clips of scenes are compared segment by segment, where one action fills
two thirds, and their persons by the average precision at an IoU of 0.5. Needs DuckDB, as `query` does.")]
pub(super) struct Eval {
    #[command(flatten)]
    index: IndexArgs,
    /// The file with the ground truth.
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// The format of that file.
    #[arg(long, value_enum, default_value = "csv")]
    format: TruthFormat,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
    /// The DuckDB command-line program, if it is not `duckdb` on the PATH.
    #[arg(long, value_name = "PROGRAM", env = "VIDINDEX_DUCKDB")]
    duckdb: Option<PathBuf>,
}

impl Eval {
    pub(super) async fn run(self) -> Result<u8> {
        let job = self.index.job().await?;
        let report = eval::run(&job, &self.truth, self.format, self.duckdb.as_deref()).await?;
        match self.json {
            true => console::print_json(&report)?,
            false => drop(console::print(report.to_string().trim_end())?),
        }
        Ok(0)
    }
}
