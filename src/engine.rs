//! Engines: who runs a run's shards on many machines. Scheduling, retries and placement are theirs; ours is to hand in
//! an array of tasks and the seal behind it.

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

/// Who runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// `sbatch`, found on the path.
    Slurm,
    /// An array job in AWS Batch.
    AwsBatch,
    /// An Indexed Job, by `kubectl` found on the path.
    Kubernetes,
}

/// As on the command line.
impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Slurm => "slurm",
            Self::AwsBatch => "aws-batch",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// What was submitted, or would be.
#[derive(Debug)]
pub(crate) struct Submitted {
    /// What a person wants to know of it, or what would be submitted.
    pub(crate) lines: Vec<String>,
    /// The engine's names of the tasks' job and of the seal's.
    pub(crate) jobs: Vec<String>,
}

impl Submitted {
    fn shown(lines: Vec<String>) -> Self {
        Self { lines, jobs: Vec::new() }
    }
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
    /// This binary, as every machine of a shared file system finds it.
    pub(crate) program: PathBuf,
    /// The job file as typed: absolute, or from the working directory.
    pub(crate) job_file: PathBuf,
    /// What follows the job file on the command line: its `--set`s.
    pub(crate) job_options: Vec<String>,
}

impl Submission<'_> {
    /// The arguments of `work` (each task finds its number in its environment) or `seal` where the job file lies at
    /// `job_file`.
    fn arguments(&self, subcommand: &str, job_file: &Path) -> Vec<String> {
        let mut arguments = vec![subcommand.to_owned(), job_file.display().to_string()];
        arguments.extend(self.job_options.iter().cloned());
        arguments.extend(["--run".to_owned(), self.run.to_string()]);
        arguments
    }

    /// One task for each shard, at most `limit` (the engine's) and `asked` (the job's): what is beyond is shared out
    /// among the tasks.
    fn tasks(&self, asked: Option<u32>, limit: u32) -> u32 {
        self.shards.min(asked.unwrap_or(u32::MAX)).min(limit).max(1)
    }
}

/// Submits the run: an array of tasks, and a seal that waits for it. With `dry_run` nothing is submitted.
///
/// # Errors
/// The engine is not there, or refused.
pub(crate) async fn submit(engine: Engine, submission: &Submission<'_>, dry_run: bool) -> Result<Submitted> {
    match engine {
        Engine::Slurm => slurm::submit(submission, dry_run).await,
        Engine::AwsBatch => aws_batch::submit(submission, dry_run).await,
        Engine::Kubernetes => kubernetes::submit(submission, dry_run).await,
    }
}
