//! `vidindex plan`.

use clap::Args;

use super::INCOMPLETE;
use super::args::{JobArgs, PlanArgs};
use crate::console;
use crate::error::{Error, Result};
use crate::pipeline::{Pipeline, Planned};

/// List the input, skip what is already indexed, and write the shards of a new run. Prints its id.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  run=$(vidindex plan jobs/s3.toml)")]
pub(super) struct Plan {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    plan: PlanArgs,
    /// Only print what would be indexed.
    #[arg(long)]
    dry_run: bool,
}

impl Plan {
    pub(super) async fn run(self, pipeline: &Pipeline) -> Result<u8> {
        let Planned { plan, output, .. } = pipeline.plan(&self.job.load()?, self.plan.options(), self.dry_run).await?;
        if self.dry_run {
            console::print(&plan)?;
        } else {
            plan.write(&*output).await?;
            console::print(&plan.run.run_id)?;
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
