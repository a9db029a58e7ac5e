//! `vidindex bench`.

use std::time::Duration;

use clap::Args;

use super::args::{JobArgs, JsonArg};
use crate::console;
use crate::error::Result;
use crate::pipeline::Pipeline;

/// Measure how fast a job runs on this machine, with a sample of its videos, and what limits it. Nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex bench jobs/s3.toml --device cuda:0
  vidindex bench jobs/local.toml --seconds 20 --json | jq .pipeline.times_real_time

It decodes and indexes the sample again and again, and throws the rows away. The sample is spread over
the first 20,000 objects of the listing; of each video, as much is decoded as there is time for.")]
pub(super) struct Bench {
    #[command(flatten)]
    job: JobArgs,
    /// About how long to measure.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Number of videos in the sample, at most.
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..))]
    videos: u16,
    #[command(flatten)]
    json: JsonArg,
}

impl Bench {
    pub(super) async fn run(self, pipeline: &Pipeline) -> Result<u8> {
        let Self { job, seconds, videos, json } = self;
        let report = pipeline.bench(&job.load()?, Duration::from_secs(seconds), videos.into()).await?;
        match json.json {
            true => console::print(format_args!("{:#}", serde_json::json!(report)))?,
            false => console::print(&report)?,
        };
        Ok(0)
    }
}
