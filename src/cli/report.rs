//! `vidindex report`.

use std::path::PathBuf;

use clap::Args;

use super::args::JobArgs;
use crate::console;
use crate::error::{Error, Result};
use crate::{report, store};

/// Write an HTML page of a run: totals, failures, and each video's actions and people on a timeline.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex report jobs/local.toml                     the newest run, as report.html
  vidindex report jobs/s3.toml --run $run -o run.html

The page needs no network and no other file. With `thumbnails = true` in [report] of the job file, `work` writes pictures
of a few moments of each video, which the page then shows with the boxes that were found in them.")]
pub(super) struct Report {
    #[command(flatten)]
    job: JobArgs,
    /// The run; the newest by default.
    #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
    run: Option<String>,
    /// The file to write; an existing one is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

impl Report {
    pub(super) async fn run(self) -> Result<u8> {
        let (job, file) = (self.job.load()?, self.output);
        let output = store::open(&job.output.uri, &job.store).await?;
        let run = match self.run {
            Some(run) => run.parse()?,
            None => report::newest(&*output).await?.ok_or_else(|| {
                Error::usage(format!("there are no runs in {}", job.output.uri))
                    .with_hint("`vidindex run JOB.toml` makes one; is output.uri right?")
            })?,
        };
        let page = report::page(&*output, &run).await?;
        std::fs::write(&file, &page)
            .map_err(|error| Error::failed(format!("cannot write {}: {error}", file.display())))?;
        tracing::info!(run_id = run.as_str(), size = %bytesize::ByteSize(page.len() as u64), "report written");
        console::print(file.display())?;
        Ok(0)
    }
}
