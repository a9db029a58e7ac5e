//! `vidindex work`.

use std::sync::Arc;

use clap::Args;

use super::Console;
use super::args::{JobArgs, MetricsArg, RunArg};
use crate::engine;
use crate::error::Result;
use crate::pipeline::Pipeline;
use crate::store;
use crate::telemetry::Progress;
use crate::work::models::JobModels;

/// Process the shards of a run: all of them, or those of one task.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vidindex work jobs/s3.toml --run $run --task 0/4

Without --task the task comes from the engine: SLURM_ARRAY_TASK_ID, AWS_BATCH_JOB_ARRAY_INDEX or JOB_COMPLETION_INDEX.")]
pub(super) struct Work {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    run: RunArg,
    /// Process as task I of N, with the shards I, I+N, I+2N and so on.
    #[arg(long, value_name = "I/N", env = "VIDINDEX_TASK")]
    task: Option<String>,
    #[command(flatten)]
    metrics: MetricsArg,
}

impl Work {
    pub(super) async fn run(self, console: &Console, pipeline: &Pipeline) -> Result<u8> {
        let task = engine::task(self.task.as_deref(), |name| std::env::var(name).ok())?;
        let (job, run_id) = (self.job.load()?, self.run.run.parse()?);
        let models = JobModels::read(&job).await?;
        models.warn_of_random();
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let progress = Arc::new(Progress::default());
        let work = pipeline.work(&job, models, output, &run_id, progress.clone()).await?;
        let done =
            console.while_shown(&run_id, task, progress, self.metrics.metrics.as_deref(), work.run(task)).await?;
        console.show(&done);
        Ok(0)
    }
}
