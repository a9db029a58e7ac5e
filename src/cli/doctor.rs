//! `vidindex doctor`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::doctor;
use crate::error::Result;
use crate::job::Job;

/// Check what is installed and reachable, and say how to fix the rest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex doctor                                     what is installed
  vidindex doctor jobs/s3.toml                        and whether this job's models, input and output can be used

Exit code 1 where a check failed.")]
pub(super) struct Doctor {
    /// A job to check too: its models, input and output.
    job: Option<PathBuf>,
    /// Changes a value of the job file.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Doctor {
    pub(super) async fn run(self, onnxruntime: Option<&Path>) -> Result<u8> {
        let job = self.job.map(|path| Job::load(&path, &self.set)).transpose()?;
        Ok(if doctor::check(onnxruntime, job.as_ref()).await? { 0 } else { 1 })
    }
}
