//! `vidindex status`.

use std::time::Duration;

use clap::Args;

use super::args::IndexArgs;
use crate::error::Result;
use crate::job::Job;
use crate::status::{self, RunStatus, State};
use crate::store::{self, Store};
use crate::{console, engine};

/// Show the progress of runs, from the output and from the engine that runs them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex status jobs/s3.toml                        all runs, one line each
  vidindex status jobs/s3.toml --run $run --watch     one run, until it no longer progresses

A submitted run is watched until its engine has no pending or running task of it. If the engine cannot be
queried from here (no squeue, no kubectl), status says so, and --watch waits until the run is sealed.")]
pub(super) struct Status {
    #[command(flatten)]
    index: IndexArgs,
    /// Show one run in detail.
    #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
    run: Option<String>,
    /// Refresh every few seconds until the run no longer progresses.
    #[arg(long, requires = "run", conflicts_with = "json")]
    watch: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Interval between refreshes.
const WATCH_EVERY: Duration = Duration::from_secs(5);

impl Status {
    pub(super) async fn run(self) -> Result<u8> {
        let Self { index, run, watch, json } = self;
        let job = &index.job().await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let Some(run) = run else {
            let mut runs = status::of_all(&*output).await?;
            for run in &mut runs {
                ask_engine(&*output, job, run).await?;
            }
            if json {
                console::print(format_args!("{:#}", serde_json::json!(runs)))?;
            } else if runs.is_empty() {
                console::note(format_args!("no runs in {}", job.output.uri));
            } else {
                console::print(runs.iter().map(RunStatus::line).collect::<Vec<_>>().join("\n"))?;
            }
            return Ok(0);
        };
        let run = run.parse()?;
        loop {
            let mut status = status::of_run(&*output, &run).await?;
            ask_engine(&*output, job, &mut status).await?;
            let is_read = if json {
                console::print(format_args!("{:#}", serde_json::json!(status)))?
            } else {
                let clear = if watch && console::is_screen(&std::io::stdout()) { "\x1b[2J\x1b[H" } else { "" };
                console::print(format_args!("{clear}{status}"))?
            };
            if !watch || !is_read || status.is_still() {
                return Ok(0);
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}

/// Asks the engine of a submitted run about waiting tasks, which the output does not show.
async fn ask_engine(output: &dyn Store, job: &Job, status: &mut RunStatus) -> Result<()> {
    if status.state == State::Sealed {
        return Ok(());
    }
    let Some(engine) = engine::queue::look(output, job, &status.run_id).await? else { return Ok(()) };
    if engine.is_done() {
        // The last tasks may have committed, and the seal published, after the output was read.
        *status = status::of_run(output, &status.run_id).await?;
    }
    if status.state != State::Sealed {
        status.learn(engine);
    }
    Ok(())
}
