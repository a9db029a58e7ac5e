//! Arguments that several commands share.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::plan::PlanOptions;
use crate::query::Index;
use crate::run::record;
use crate::store::{self, StoreConfig};

#[derive(Debug, Args)]
pub(super) struct MetricsArg {
    /// Write Prometheus counters to this file, in the format of node_exporter's textfile collector. In a directory, each
    /// task writes a file of its own.
    #[arg(long, value_name = "FILE|DIR", env = "VIDINDEX_METRICS")]
    pub(super) metrics: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// The job file.
    pub(super) job: PathBuf,
    /// Override a value of the job file. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Device for the models: auto, cpu, openvino, cuda:0, tensorrt:0. The same as --set run.device=...
    #[arg(long, env = "VIDINDEX_DEVICE")]
    device: Option<String>,
}

impl JobArgs {
    pub(super) fn load(&self) -> Result<Job> {
        let mut set = self.set.clone();
        set.extend(self.device.iter().map(|device| format!("run.device=\"{device}\"")));
        Job::load(&self.job, &set)
    }

    /// The arguments that follow the job file, for a process on another machine.
    pub(super) fn options(&self) -> Vec<String> {
        let set = self.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
        set.chain(self.device.iter().flat_map(|device| ["--device".to_owned(), device.clone()])).collect()
    }
}

/// Names an index, by the job that writes it or by its address.
#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    /// A job file (NAME.toml), whose output is meant, or an index: a directory or s3://bucket/prefix/.
    #[arg(value_name = "JOB|INDEX")]
    place: String,
    /// Override a value of the job file. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl IndexArgs {
    pub(super) fn index(&self) -> Result<Index> {
        Index::named(&self.place, &self.set)
    }

    /// The job that writes the index. For the address of an index, the job of its latest run.
    pub(super) async fn job(&self) -> Result<Job> {
        if Index::is_job(&self.place) {
            return Job::load(self.place.as_ref(), &self.set);
        }
        let uri = self.index()?.uri;
        let output = store::open(&uri, &StoreConfig::default()).await?;
        let Some(run) = record::newest(&*output).await? else {
            return Err(Error::usage(format!("there are no runs in {uri}"))
                .with_hint("name a job file (NAME.toml), or the directory or s3:// address in its [output] uri"));
        };
        let mut job = record::read_record(&*output, &run).await?.job;
        job.output.uri = uri;
        job.store = StoreConfig::default();
        job.output_differs = StoreConfig::default();
        Ok(job)
    }
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Index every video, not only new and changed ones.
    #[arg(long, env = "VIDINDEX_REINDEX")]
    reindex: bool,
    /// Retry every unchanged video that failed, including those that failed because of their content or too often.
    #[arg(long, env = "VIDINDEX_RETRY_FAILED")]
    retry_failed: bool,
    /// Mark videos that are missing from the input as deleted, even if they are more than input.deleted_max.
    #[arg(long, env = "VIDINDEX_CONFIRM_DELETED")]
    confirm_deleted: bool,
}

impl PlanArgs {
    pub(super) fn options(&self) -> PlanOptions {
        let Self { reindex, retry_failed, confirm_deleted } = *self;
        PlanOptions { reindex, retry_failed, confirm_deleted, ..PlanOptions::default() }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArg {
    /// Id of the run, as printed by `plan`.
    #[arg(long = "run", value_name = "ID", env = "VIDINDEX_RUN")]
    pub(super) run: String,
}

#[derive(Debug, Args)]
pub(super) struct JsonArg {
    /// Print the summary as JSON.
    #[arg(long)]
    pub(super) json: bool,
}
