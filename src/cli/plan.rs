//! `vidindex plan`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use clap::Args;

use super::INCOMPLETE;
use super::args::{JobArgs, PlanArgs};
use crate::console;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::plan::PlanOptions;

/// List the input, skip what is already indexed, and write the shards of a new run. Prints its id.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  run=$(vidindex plan jobs/s3.toml)
  vidindex plan jobs/s3.toml --dry-run                       what would be indexed, and why
  vidindex plan jobs/s3.toml --list >videos.tsv              the same, video by video
  vidindex plan jobs/s3.toml --estimate --tasks 16           how long it takes and what it costs
  vidindex bench jobs/s3.toml --json >bench.json             on a machine of the kind that will run it
  vidindex plan jobs/s3.toml --estimate --bench bench.json

An estimate goes by the headers of 64 videos, by the newest run of the job or the report of `vidindex bench`, and by
[prices] of the job file.")]
pub(super) struct Plan {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    plan: PlanArgs,
    /// Only print what would be indexed, and why.
    #[arg(long)]
    dry_run: bool,
    /// Only print what the run would take: hours, requests, costs.
    #[arg(long)]
    estimate: bool,
    /// Number of tasks that the estimate divides the work among.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..), requires = "estimate")]
    tasks: u32,
    /// Estimate by this report of `vidindex bench --json`, not by earlier runs.
    #[arg(long, value_name = "FILE", requires = "estimate")]
    bench: Option<PathBuf>,
    /// Only print the videos that would be indexed: why, which and what is different, separated by tabs.
    #[arg(long, conflicts_with_all = ["estimate", "dry_run"])]
    list: bool,
    /// Print the estimate as JSON.
    #[arg(long, requires = "estimate")]
    json: bool,
}

impl Plan {
    pub(super) async fn run(self, pipeline: &Pipeline) -> Result<u8> {
        let job = self.job.load()?;
        let writes = !(self.dry_run || self.estimate || self.list);
        let options = PlanOptions { list: self.list, ..self.plan.options() };
        let planned = pipeline.plan(&job, options, !writes).await?;
        let plan = &planned.plan;
        if writes {
            plan.write(&*planned.output).await?;
            console::print(&plan.run.run_id)?;
        } else if self.list {
            let file = plan.list().map(File::open).transpose().map_err(|error| Error::failed(error.to_string()))?;
            for line in file.into_iter().flat_map(|file| BufReader::new(file).lines()) {
                console::print(line.map_err(|error| Error::failed(error.to_string()))?)?;
            }
        } else if self.json {
            let estimate = pipeline.estimate(&job, &planned, self.bench.as_deref(), self.tasks).await?;
            console::print(format_args!("{:#}", serde_json::json!(estimate)))?;
        } else {
            console::print(plan)?;
            if plan.videos_to_read() > 0 {
                let estimate = pipeline.estimate(&job, &planned, self.bench.as_deref(), self.tasks).await?;
                match self.estimate {
                    true => console::print(&estimate)?,
                    false => console::print(format_args!("estimate {} (--estimate says more)", estimate.brief()))?,
                };
            }
        }
        Ok(0)
    }
}

/// Handles a plan without shards: either all videos are indexed, or none was found.
pub(super) fn nothing_to_do(planned: &crate::plan::Plan) -> Result<u8> {
    if planned.nothing_matched() {
        planned.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
        return Err(Error::failed(planned.nothing_matched_message())
            .with_hint("check [input] uri and include; `vidindex plan JOB --dry-run` shows what was skipped"));
    }
    tracing::info!("nothing new to index: --reindex indexes every video again, --retry-failed retries failed videos");
    console::note(planned);
    Ok(listed_code(planned))
}

/// The exit code that follows from the listing: folders that could not be listed are not indexed.
pub(super) fn listed_code(planned: &crate::plan::Plan) -> u8 {
    if planned.unlisted_message().is_some() { INCOMPLETE } else { 0 }
}
