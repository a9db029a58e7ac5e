//! `vidindex submit`.

use std::path::PathBuf;

use clap::Args;

use super::args::{JobArgs, PlanArgs};
use super::plan;
use crate::engine::{self, Engine, Submission};
use crate::error::Result;
use crate::pipeline::{Pipeline, Planned};
use crate::run::record;
use crate::status::{self, State};
use crate::{console, decode, store};

/// Plan a run and submit it to a cluster: an array of tasks, followed by the seal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex submit jobs/s3.toml --engine slurm
  vidindex submit jobs/s3.toml --engine slurm --dry-run     what would be submitted
  vidindex submit jobs/s3.toml --engine slurm --run $run    resume a run
  vidindex submit jobs/s3.toml --engine aws-batch
  vidindex submit jobs/s3.toml --engine kubernetes --dry-run >objects.yaml

The job file sets partitions, GPUs and limits, e.g. in [engine.slurm]. Prints the run's id.")]
pub(super) struct Submit {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    plan: PlanArgs,
    /// The engine that runs the tasks.
    #[arg(long, value_enum, env = "VIDINDEX_ENGINE")]
    engine: Engine,
    /// Resume an existing run.
    #[arg(long, value_name = "ID", conflicts_with_all = ["reindex", "retry_failed", "confirm_deleted"])]
    run: Option<String>,
    /// Only print what would be submitted.
    #[arg(long)]
    dry_run: bool,
    /// Let each task write Prometheus counters to a file in this directory, which must exist on its machine.
    #[arg(long, value_name = "DIR")]
    metrics: Option<PathBuf>,
}

impl Submit {
    pub(super) async fn run(self, pipeline: &Pipeline) -> Result<u8> {
        let Self { job: arguments, plan, engine, run, dry_run, metrics } = self;
        let job = arguments.load()?;
        let (run, shards, output) = match run {
            Some(run) => {
                let output = store::open(&job.output.uri, &job.output_store()).await?;
                let (record, _) = record::read(&*output, &run.parse()?).await?;
                if status::of_run(&*output, &record.run_id).await?.state == State::Sealed {
                    console::note(format_args!("{} is finished and sealed: there is nothing to submit", record.run_id));
                    console::print(&record.run_id)?;
                    return Ok(0);
                }
                (record.run_id, record.shards, output)
            }
            None => {
                let Planned { plan, output, .. } = pipeline.plan(&job, plan.options(), dry_run).await?;
                if plan.run.shards == 0 {
                    return plan::nothing_to_do(&plan);
                }
                if dry_run {
                    console::note(&plan);
                } else {
                    plan.write(&*output).await?;
                }
                (plan.run.run_id, plan.run.shards, output)
            }
        };
        let submission = Submission {
            job: &job,
            run: &run,
            shards,
            program: decode::own_program()?,
            job_file: arguments.job.clone(),
            job_options: arguments.options(),
            metrics,
        };
        let submitted = engine::submit(engine, &submission, dry_run).await?;
        let lines = submitted.lines.join("\n");
        if dry_run {
            console::print(lines)?;
            return Ok(0);
        }
        console::note(lines);
        if let Err(error) = engine::queue::note(&*output, &run, engine, submitted.jobs).await {
            tracing::warn!(%error, "failed to record the submission: `vidindex status` will not show it");
        }
        console::print(&run)?;
        Ok(0)
    }
}
