//! `vidindex seal`.

use std::time::Duration;

use clap::Args;

use super::args::{JobArgs, JsonArg};
use super::{Console, exit_code};
use crate::console;
use crate::error::Result;
use crate::job::MaxFailed;
use crate::run::record;
use crate::{pipeline, seal, store};

/// Publish the committed shards of a run, or of all unfinished runs, and write their summaries.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex seal jobs/s3.toml --run $run
  vidindex seal jobs/s3.toml --run $run --max-failed 1%
  vidindex seal jobs/s3.toml                                 whatever unfinished runs have committed")]
pub(super) struct Seal {
    #[command(flatten)]
    job: JobArgs,
    /// Id of the run, as printed by `plan`. The default is every run with committed shards that are not published.
    #[arg(long = "run", value_name = "ID", env = "VIDINDEX_RUN")]
    run: Option<String>,
    /// Wait up to this long until every shard is committed.
    #[arg(long, value_name = "SECONDS", requires = "run")]
    wait: Option<u64>,
    /// Exit with 0 if at most so many videos, or such a share of them (1%), failed or are partial. Kinds of errors may have
    /// limits of their own (1%,corrupt=5%). The default is run.max_failed of the job.
    #[arg(long, value_name = "LIMIT[,KIND=LIMIT...]")]
    max_failed: Option<MaxFailed>,
    #[command(flatten)]
    json: JsonArg,
}

impl Seal {
    pub(super) async fn run(self, console: &Console) -> Result<u8> {
        let job = self.job.load()?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let summaries = match &self.run {
            Some(run) => {
                let run = run.parse()?;
                if let Some(seconds) = self.wait {
                    let shards = record::read_record(&*output, &run).await?.shards;
                    seal::wait(&*output, run.as_str(), shards, Duration::from_secs(seconds)).await?;
                }
                vec![pipeline::seal(&*output, &run).await?]
            }
            None => seal::seal_unfinished(&*output).await?,
        };
        if summaries.is_empty() {
            tracing::info!("every committed shard is published");
        }
        let mut code = 0;
        for summary in &summaries {
            if self.json.json {
                console::print_json(summary)?;
            } else {
                console.show_published(summary);
            }
            code = code.max(exit_code(summary, self.max_failed.as_ref().unwrap_or(&job.run.max_failed)));
        }
        Ok(code)
    }
}
