//! The steps of a job (plan, work, seal) as functions, for the command line and for other Rust programs.
//!
//! Create a [`Pipeline`], call [`Pipeline::plan`] and [`Plan::write`], then [`Pipeline::work`] and [`Work::run`], then
//! [`seal()`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::DateTime;

use crate::bench::{Bench, BenchReport};
use crate::decode::{self, Decoders};
use crate::error::{Error, Result};
use crate::estimate::{self, Estimate, Speed};
use crate::infer::session::Runtime;
use crate::job::{Job, Sandbox};
use crate::plan::{self, Plan, PlanOptions, layout};
use crate::quantize::{Quantize, QuantizeReport};
use crate::run::{PlanFile, RunId, RunKind, RunSummary, record};
use crate::seal::{self, Preview};
use crate::store::{self, Store};
use crate::telemetry::Progress;
use crate::work::models::JobModels;
use crate::work::{Done, Task, Worker};

/// Runs jobs in this process.
#[derive(Default)]
pub struct Pipeline {
    /// The ONNX Runtime library or its directory, as given by the user.
    onnxruntime: Option<PathBuf>,
    runtime: OnceLock<Arc<Runtime>>,
}

/// A plan that is not written yet, and what it was made from.
pub struct Planned {
    /// The models of the job.
    pub models: JobModels,
    /// The plan.
    pub plan: Plan,
    /// The job's output.
    pub output: Arc<dyn Store>,
}

/// A run that this process can work on.
pub struct Work<'a> {
    pipeline: &'a Pipeline,
    job: &'a Job,
    worker: Worker,
    plan: PlanFile,
}

impl Pipeline {
    /// `onnxruntime` is the library or its directory. If it is `None`, the usual places are searched.
    pub fn new(onnxruntime: Option<PathBuf>) -> Self {
        Self { onnxruntime, runtime: OnceLock::new() }
    }

    /// ONNX Runtime on the job's device. It is loaded once, because a process can only load one.
    ///
    /// # Errors
    /// If the library or the device is not available.
    pub fn runtime(&self, job: &Job) -> Result<Arc<Runtime>> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.clone());
        }
        let runtime = Arc::new(Runtime::load(self.onnxruntime.as_deref(), job.run.device, job.run.precision)?);
        Ok(self.runtime.get_or_init(|| runtime).clone())
    }

    /// Plans a run of the job without writing the plan. First publishes what earlier runs of the same job committed.
    /// With `dry_run`, nothing is written at all, and the plan is the same.
    ///
    /// # Errors
    /// As for [`plan::plan`], and if the models cannot be read.
    pub async fn plan(&self, job: &Job, options: PlanOptions, dry_run: bool) -> Result<Planned> {
        let models = JobModels::read(job).await?;
        models.warn_of_random();
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let refs = models.refs();
        let fingerprint = job.fingerprint(&refs.hashes());
        let kind = RunKind::Index { fingerprint: &fingerprint };
        let caught_up: Arc<dyn Store> = if dry_run {
            Arc::new(Preview::of(output.clone(), kind).await?)
        } else {
            seal::catch_up(&*output, kind, DateTime::UNIX_EPOCH).await?;
            output.clone()
        };
        let plan = plan::plan(job, &refs, &*input, &*caught_up, options).await?;
        if !dry_run {
            plan.not_included_message().inspect(|message| tracing::info!("{message}"));
            plan.unlisted_message().inspect(|message| tracing::warn!("{message}"));
            plan.unfit_message().inspect(|message| tracing::warn!("{message}"));
        }
        Ok(Planned { models, plan, output })
    }

    /// Estimates what a plan takes with this number of tasks, at the speed of `bench`, a report of `vidindex bench`, otherwise at
    /// that of earlier runs.
    ///
    /// # Errors
    /// If the report cannot be read or a store cannot be accessed.
    pub async fn estimate(&self, job: &Job, planned: &Planned, bench: Option<&Path>, tasks: u32) -> Result<Estimate> {
        let speed = match bench {
            Some(file) => Some(Speed::of_bench(file)?),
            None => {
                let fingerprint = &planned.plan.run.fingerprint;
                Speed::of_runs(&*planned.output, fingerprint, &planned.models.refs()).await?
            }
        };
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let decoders = Arc::new(Decoders::new(decode::own_program()?));
        estimate::estimate(job, &planned.plan, input, &decoders, speed, tasks).await
    }

    /// Measures the job on this machine with a sample of up to `videos` of its videos, for about `time`.
    ///
    /// # Errors
    /// As for [`Bench::run`], and if the models cannot be read.
    pub async fn bench(&self, job: &Job, time: Duration, videos: usize) -> Result<BenchReport> {
        let runtime = self.runtime(job)?;
        let models = JobModels::read(job).await?;
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let decoders = Arc::new(Decoders::new(decode::own_program()?));
        Bench { job: job.clone(), models, runtime, input, output, decoders, videos, time }.run().await
    }

    /// Quantises the model of a job that has only this one, with `samples` samples of the job's videos, and writes it to `out`.
    ///
    /// # Errors
    /// As for [`Quantize::run`], and if the model cannot be read.
    pub async fn quantize(&self, job: &Job, samples: usize, max_drop: f64, out: PathBuf) -> Result<QuantizeReport> {
        // One sample at a time, with all cores.
        let runtime = Arc::new(self.runtime(job)?.with_streams(1));
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let decoders = Arc::new(Decoders::new(decode::own_program()?));
        Quantize { job: job.clone(), runtime, input, output, decoders, samples, max_drop, out }.run().await
    }

    /// Prepares the processing of a planned run. `progress` receives the progress.
    ///
    /// # Errors
    /// If there is no such run, or it was planned with another job or other models.
    pub async fn work<'a>(
        &'a self,
        job: &'a Job,
        models: JobModels,
        output: Arc<dyn Store>,
        run_id: &RunId,
        progress: Arc<Progress>,
    ) -> Result<Work<'a>> {
        let (run, plan) = record::read(&*output, run_id).await?;
        if job.fingerprint(&models.refs().hashes()) != run.fingerprint {
            return Err(Error::usage(format!(
                "the job file or its models differ from those that {run_id} was planned with"
            ))
            .with_hint("plan again, or use the same job file, models and --set options as for `plan`"));
        }
        let decoders = Decoders::new(decode::own_program()?);
        let missing = decode::probe_sandbox(&decoders).await?;
        if !missing.is_empty() {
            let incomplete = format!("the decoders' sandbox is incomplete: {}", missing.join(", "));
            if job.run.sandbox == Sandbox::Require {
                return Err(Error::failed(incomplete)
                    .with_hint("let the container or the kernel allow it, or set [run] sandbox = \"auto\""));
            }
            tracing::info!("{incomplete}; what is required is there");
        }
        let input = store::open(&job.input.uri, &job.input_store()).await?;
        let worker = Worker {
            input,
            output,
            run: Arc::new(run),
            models,
            decoders: Arc::new(decoders),
            video_timeout: Duration::from_secs(job.run.video_timeout_seconds),
            save_interval: Duration::from_secs(job.run.save_seconds),
            progress,
        };
        Ok(Work { pipeline: self, job, worker, plan })
    }
}

impl Work<'_> {
    /// Processes the shards of the task.
    ///
    /// # Errors
    /// As for [`Worker::work`].
    pub async fn run(&self, task: Task) -> Result<Done> {
        self.worker.work(&self.plan, task, &|| self.pipeline.runtime(self.job)).await
    }
}

/// Publishes what the run has committed.
///
/// # Errors
/// If there is no such run, if the partition columns of its files differ from those of the index, and as for
/// [`seal::seal`].
pub async fn seal(output: &dyn Store, run_id: &RunId) -> Result<RunSummary> {
    let run = record::read_record(output, run_id).await?;
    if run.kind() != RunKind::Merge {
        layout::check(&run.job, output).await?;
    }
    seal::seal(output, run_id.as_str(), run.shards, run.created_at).await
}
