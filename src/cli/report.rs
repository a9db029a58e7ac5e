//! `vidindex report`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use super::write_file;
use crate::console;
use crate::error::{Error, Result};
use crate::run::{RunId, record};
use crate::{report, store};

/// Write an HTML page of a run or of the whole index: totals, failures, and each video's actions and people on a timeline.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex report jobs/local.toml                     the latest run, as report.html
  vidindex report jobs/s3.toml --run $run -o run.html
  vidindex report jobs/s3.toml --current              all that is indexed, whichever run it comes from
  vidindex report s3://index/                         of an index, without its job file

The page is self-contained and needs no network. With `thumbnails = true` in [report] of the job file, `work` writes pictures
of a few moments of each video, which the page then shows with the boxes that were detected in them.")]
pub(super) struct Report {
    #[command(flatten)]
    index: IndexArgs,
    /// Id of the run. The default is the latest run.
    #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
    run: Option<String>,
    /// Instead of a run, show what is current in the whole index, and which videos could not be indexed.
    #[arg(long, conflicts_with = "run")]
    current: bool,
    /// The file to write; an existing one is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

impl Report {
    pub(super) async fn run(self) -> Result<u8> {
        let (index, file) = (self.index.index()?, self.output);
        let output = store::open(&index.uri, &index.store).await?;
        let no_runs = || {
            Error::usage(format!("there are no runs in {}", index.uri))
                .with_hint("check output.uri, or create a run with `vidindex run JOB.toml`")
        };
        let run = match self.run {
            _ if self.current => None,
            Some(run) => Some(run.parse()?),
            None => Some(record::newest(&*output).await?.ok_or_else(no_runs)?),
        };
        let page = match &run {
            Some(run) => report::page(&*output, run).await?,
            None => report::page_of_index(&*output).await?.ok_or_else(no_runs)?,
        };
        write_file(&file, &page)?;
        tracing::info!(run_id = run.as_ref().map(RunId::as_str), size = %bytesize::ByteSize(page.len() as u64), "report written");
        console::print(file.display())?;
        Ok(0)
    }
}
