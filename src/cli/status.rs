//! `vidindex status`.

use std::time::Duration;

use clap::Args;

use super::args::JobArgs;
use crate::error::Result;
use crate::job::Job;
use crate::status::{self, RunStatus, State};
use crate::store::{self, Store};
use crate::{console, engine};

/// Show the progress of runs, from the output and from the engine that has them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex status jobs/s3.toml                        every run, a line each
  vidindex status jobs/s3.toml --run $run --watch     one run, until nothing more will happen

A run that was submitted is watched until its engine has no task of it left, pending or running. Where the engine cannot be
asked from here (no squeue, no kubectl), status says so, and --watch waits until the run is sealed.")]
pub(super) struct Status {
    #[command(flatten)]
    job: JobArgs,
    /// One run, in detail.
    #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
    run: Option<String>,
    /// Refresh every few seconds, until nothing more will happen.
    #[arg(long, requires = "run", conflicts_with = "json")]
    watch: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// From one look at a run to the next.
const WATCH_EVERY: Duration = Duration::from_secs(5);

impl Status {
    pub(super) async fn run(self) -> Result<u8> {
        let Self { job, run, watch, json } = self;
        let job = &job.load()?;
        let output = store::open(&job.output.uri, &job.store).await?;
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

/// What the output does not tell: whether tasks wait, of a run that an engine has.
async fn ask_engine(output: &dyn Store, job: &Job, status: &mut RunStatus) -> Result<()> {
    if status.state != State::Sealed
        && let Some(found) = engine::queue::look(output, job, &status.run_id).await?
    {
        status.learn(found);
    }
    Ok(())
}
