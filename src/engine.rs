//! Engines: who runs a run's shards on many machines. Scheduling, retries and placement are theirs; ours is to hand in
//! an array of tasks and the seal behind it.

mod slurm;
mod task;

use std::path::PathBuf;

use crate::error::Result;
use crate::job::Job;
use crate::plan::RunId;
pub(crate) use task::task;

/// Who runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// `sbatch`, found on the path.
    Slurm,
}

/// A planned run, to be handed to an engine.
#[derive(Debug)]
pub(crate) struct Submission<'a> {
    /// The job that was planned.
    pub(crate) job: &'a Job,
    /// The run.
    pub(crate) run: &'a RunId,
    /// How many shards it has, at least one.
    pub(crate) shards: u32,
    /// This binary, as every machine finds it.
    pub(crate) program: PathBuf,
    /// What follows `work` and `seal` on the command line besides the run: the job file and its `--set`s.
    pub(crate) job_arguments: Vec<String>,
}

impl Submission<'_> {
    /// The command line of `work` (each task finds its number in its environment) or `seal`.
    fn command(&self, subcommand: &str) -> Vec<String> {
        let mut command = vec![self.program.display().to_string(), subcommand.to_owned()];
        command.extend(self.job_arguments.iter().cloned());
        command.extend(["--run".to_owned(), self.run.to_string()]);
        command
    }
}

/// Hands the run in: an array of tasks, and behind it the seal, whatever became of the tasks. Gives what a person wants
/// to know of it, line by line; with `dry_run` what would be handed in.
///
/// # Errors
/// The engine is not there, or refused.
pub(crate) async fn submit(engine: Engine, submission: &Submission<'_>, dry_run: bool) -> Result<Vec<String>> {
    match engine {
        Engine::Slurm => slurm::submit(submission, dry_run).await,
    }
}
