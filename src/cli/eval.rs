//! `vidindex eval`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use crate::console;
use crate::error::{Error, Result};
use crate::eval::{self, TruthFormat, Views, With};

/// Compare an index with the ground truth of a data set, or with another run: top-1, top-5, mean class accuracy, mAP, AP of persons.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex eval jobs/kinetics.toml --truth val.csv --format kinetics
  vidindex eval jobs/ucf101.toml --truth testlist01.txt --format ucf101 --json
  vidindex eval jobs/mine.toml --truth labels.csv                  with the columns video and label
  vidindex eval jobs/kinetics.toml --truth val.csv --format kinetics --views 10x3
  vidindex eval jobs/ava.toml --truth ava_val_v2.2.csv --format ava --exclude ava_val_excluded_timestamps_v2.2.csv
  vidindex eval s3://index/ --against $run                         what a new model changes

Videos are matched by the names of their files, labels without regard to case, spaces and punctuation. A video's score of a
label is the mean over its segments (Charades: the largest), of the labels that the index has of each: set `top_k` in
[actions] to the number of classes for exact figures. Clips of scenes are compared segment by segment, where one action fills
two thirds, and their persons by the average precision at an IoU of 0.5. --against takes the rows of an older run as the truth for
the current ones of the same videos. Needs DuckDB, as `query` does.")]
pub(super) struct Eval {
    #[command(flatten)]
    index: IndexArgs,
    /// The file with the ground truth; for hmdb51 the folder of split files.
    #[arg(long, value_name = "FILE", required_unless_present = "against", conflicts_with = "against")]
    truth: Option<PathBuf>,
    /// The format of that file.
    #[arg(long, value_enum, default_value = "csv")]
    format: TruthFormat,
    /// Count only so many clips of each video, evenly spread, with 1 or 3 crops, as in the papers' tests: 10x3. Needs a job with a
    /// short stride_seconds, and for 3 crops with `view = "three-crops"`.
    #[arg(long, value_name = "CLIPSxCROPS", requires = "truth")]
    views: Option<Views>,
    /// AVA's list of key frames that do not count.
    #[arg(long, value_name = "FILE", requires = "truth")]
    exclude: Option<PathBuf>,
    /// Compare with the rows of this run instead.
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
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
        let with = match (self.truth, self.against) {
            (Some(path), _) => With::Truth { path, format: self.format, views: self.views, excluded: self.exclude },
            (None, Some(run)) => With::Run(run.parse()?),
            (None, None) => return Err(Error::usage("give --truth or --against")),
        };
        let report = eval::run(&job, &with, self.duckdb.as_deref()).await?;
        match self.json {
            true => console::print_json(&report)?,
            false => drop(console::print(report.to_string().trim_end())?),
        }
        Ok(0)
    }
}
