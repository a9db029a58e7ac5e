//! `vidindex run`.

use std::sync::Arc;

use clap::Args;

use super::args::{JobArgs, JsonArg, MetricsArg, PlanArgs};
use super::outcome::Known;
use super::{Console, exit_code, plan};
use crate::console;
use crate::error::Result;
use crate::pipeline::{self, Pipeline, Planned};
use crate::telemetry::Progress;
use crate::work::Task;

/// Plan, process all shards and seal: the whole job in one process.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex run jobs/local.toml --set output.uri=/tmp/index
  vidindex run jobs/local.toml --json >summary.json

With --json, one JSON object is printed for every way the run can end: finished, nothing to do, failed or stopped by a signal.
schemas/records.json describes it (run_report).")]
pub(super) struct Run {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    metrics: MetricsArg,
    #[command(flatten)]
    json: JsonArg,
}

impl Run {
    /// Whether standard output is reserved for the JSON report.
    pub(super) fn reports(&self) -> bool {
        self.json.json
    }

    pub(super) async fn run(self, console: &Console, pipeline: &Pipeline, known: &Known) -> Result<u8> {
        let job = self.job.load()?;
        // Fail before listing anything if the device is not available.
        pipeline.runtime(&job)?;
        let Planned { models, plan, output } = pipeline.plan(&job, self.plan.options(), false).await?;
        if plan.run.shards == 0 {
            return plan::nothing_to_do(&plan);
        }
        plan.write(&*output).await?;
        known.planned(&output, &plan.run);
        let run_id = &plan.run.run_id;
        let progress = Arc::new(Progress::default());
        let work = pipeline.work(&job, models, output.clone(), run_id, progress.clone()).await?;
        let done = console
            .while_shown(run_id, Task::ALL, progress, self.metrics.metrics.as_deref(), work.run(Task::ALL))
            .await?;
        let summary = pipeline::seal(&*output, run_id).await?;
        let code = exit_code(&summary, &job.run.max_failed).max(plan::listed_code(&plan));
        if !self.reports() {
            console.show_published(&summary);
        }
        console.show(&done);
        known.sealed(summary);
        if !self.reports() {
            console::print(run_id)?;
        }
        Ok(code)
    }
}
