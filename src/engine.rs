//! Engines: cluster schedulers that run the shards of a run on many machines. The engine is responsible for scheduling,
//! retries and placement; this module submits an array of tasks, followed by a task that seals.

mod aws_batch;
mod kubernetes;
pub(crate) mod queue;
mod slurm;
mod task;
mod tool;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::job::Job;
use crate::run::RunId;
pub(crate) use task::task;

/// A cluster scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// Slurm, through `sbatch` on the PATH.
    Slurm,
    /// An array job in AWS Batch.
    AwsBatch,
    /// Kubernetes: an Indexed Job, through `kubectl` on the PATH.
    Kubernetes,
}

/// Formats the name as on the command line.
impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Slurm => "slurm",
            Self::AwsBatch => "aws-batch",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// The result of a submission, or of its dry run.
#[derive(Debug)]
pub(crate) struct Submitted {
    /// Output for the user: what was submitted, or what would be submitted.
    pub(crate) lines: Vec<String>,
    /// The engine's names of the job that runs the tasks and of the job that seals.
    pub(crate) jobs: Vec<String>,
}

impl Submitted {
    fn shown(lines: Vec<String>) -> Self {
        Self { lines, jobs: Vec::new() }
    }
}

/// A planned run that is to be submitted.
#[derive(Debug)]
pub(crate) struct Submission<'a> {
    /// The job that was planned.
    pub(crate) job: &'a Job,
    /// The id of the run.
    pub(crate) run: &'a RunId,
    /// Number of shards, at least one.
    pub(crate) shards: u32,
    /// Path of this binary, as every machine of a shared file system sees it.
    pub(crate) program: PathBuf,
    /// The job file as typed: an absolute path, or relative to the working directory.
    pub(crate) job_file: PathBuf,
    /// The arguments that follow the job file: its `--set` options.
    pub(crate) job_options: Vec<String>,
    /// The directory of the tasks' metrics.
    pub(crate) metrics: Option<PathBuf>,
}

impl Submission<'_> {
    /// The arguments of `work` or `seal` with the job file at `job_file`. Each task of `work` takes its number from its
    /// environment.
    fn arguments(&self, subcommand: &str, job_file: &Path) -> Vec<String> {
        let mut arguments = vec![subcommand.to_owned(), job_file.display().to_string()];
        arguments.extend(self.job_options.iter().cloned());
        arguments.extend(["--run".to_owned(), self.run.to_string()]);
        if let Some(metrics) = self.metrics.as_ref().filter(|_| subcommand == "work") {
            arguments.extend(["--metrics".to_owned(), metrics.display().to_string()]);
        }
        arguments
    }

    /// Number of tasks: one per shard, but at most `limit` (of the engine) and `asked` (of the job). If there are fewer
    /// tasks than shards, each task processes several shards.
    fn tasks(&self, asked: Option<u32>, limit: u32) -> u32 {
        self.shards.min(asked.unwrap_or(u32::MAX)).min(limit).max(1)
    }
}

/// Submits the run: an array of tasks, and a seal that waits for them. With `dry_run`, nothing is submitted.
///
/// # Errors
/// If the engine cannot be reached or rejects the submission.
pub(crate) async fn submit(engine: Engine, submission: &Submission<'_>, dry_run: bool) -> Result<Submitted> {
    match engine {
        Engine::Slurm => slurm::submit(submission, dry_run).await,
        Engine::AwsBatch => aws_batch::submit(submission, dry_run).await,
        Engine::Kubernetes => kubernetes::submit(submission, dry_run).await,
    }
}
