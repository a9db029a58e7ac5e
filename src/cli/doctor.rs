//! `vidindex doctor`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::doctor;
use crate::error::Result;
use crate::job::Job;

/// Check what is installed and reachable, and explain how to fix problems.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex doctor                                     what is installed
  vidindex doctor jobs/s3.toml                        also check this job's models, input and output

The exit code is 1 if a check failed.")]
pub(super) struct Doctor {
    /// A job file. Its models, input and output are checked as well.
    job: Option<PathBuf>,
    /// Override a value of the job file. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Doctor {
    pub(super) async fn run(self, onnxruntime: Option<&Path>) -> Result<u8> {
        let job = self.job.map(|path| Job::load(&path, &self.set)).transpose()?;
        Ok(if doctor::check(onnxruntime, job.as_ref()).await? { 0 } else { 1 })
    }
}
