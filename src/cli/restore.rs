//! `vidindex restore`.

use clap::Args;

use super::args::JobArgs;
use crate::console;
use crate::error::Result;
use crate::plan::archived;
use crate::store::{self, RestoreRequest, RestoreTier};
use crate::work::models::JobModels;

/// Show the videos in archive storage classes that the job would index, and ask S3 to restore them with --yes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex restore jobs/s3.toml                       which videos, and how large they are
  vidindex restore jobs/s3.toml --yes --days 14
  vidindex run jobs/s3.toml                           hours later: indexes what is restored

S3 charges for restoring and for the copies that it keeps for some days. Bulk takes up to 48 hours.")]
pub(super) struct Restore {
    #[command(flatten)]
    job: JobArgs,
    /// Ask S3 to restore the videos.
    #[arg(long)]
    yes: bool,
    /// Days for which the restored copies are kept.
    #[arg(long, default_value = "7", value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// How fast, and at what price.
    #[arg(long, value_enum, default_value = "bulk")]
    tier: RestoreTier,
}

impl Restore {
    pub(super) async fn run(self) -> Result<u8> {
        let job = self.job.load()?;
        let models = JobModels::read(&job).await?.refs();
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let archived = archived::find(&job, &models, &*input, &*output).await?;
        console::print(&archived)?;
        match (archived.is_empty(), self.yes) {
            (false, true) => {
                let request = RestoreRequest { days: self.days, tier: self.tier };
                console::print(archived.restore(&*input, request).await?)?;
            }
            (false, false) => console::note("nothing is requested without --yes"),
            (true, _) => {}
        }
        Ok(0)
    }
}
