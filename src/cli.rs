//! The command line: what can be typed, and which function it means.

mod models;
pub mod outcome;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use outcome::Known;

use crate::engine::{self, Engine, Submission};
use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::plan::{Plan, PlanOptions, layout};
use crate::run::{RunId, RunSummary, record};
use crate::status::{RunStatus, State};
use crate::store::{self, Store};
use crate::telemetry::{LogFormat, MetricsFile, Progress, ProgressDisplay};
use crate::work::attempt;
use crate::work::models::JobModels;
use crate::work::{Done, Task, Worker};
use crate::{compact, console, decode, doctor, infer, plan, prune, query, report, seal, status, telemetry};

/// Turns a video archive into tables: which action happens in which segment, and where the people are.
#[derive(Debug, Parser)]
#[command(
    name = "vidindex",
    version,
    after_help = "Examples:
  vidindex models pull yolov5s                      download a model
  vidindex run jobs/local.toml                      index a folder or a bucket, on this machine
  vidindex run jobs/local.toml --set input.uri=/mnt/clips --device cpu
  vidindex plan jobs/local.toml --dry-run           what would be done

Exit codes: 0 all videos indexed; 1 the job failed; 2 wrong usage or configuration;
3 finished, but some videos failed, or folders could not be listed, or shards are missing; 130/143 stopped by a signal."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Lines for people, or a JSON object per line.
    #[arg(long, global = true, value_enum, default_value = "text", env = "VIDINDEX_LOG_FORMAT")]
    log_format: LogFormat,
    /// Say more; twice for everything. VIDINDEX_LOG takes a filter like RUST_LOG.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, env = "VIDINDEX_QUIET")]
    quiet: bool,
    /// ONNX Runtime's library, or the folder that holds it.
    #[arg(long, global = true, value_name = "PATH", env = "VIDINDEX_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plan, work every shard here, seal: the whole job in one process.
    #[command(after_help = "Examples:
  vidindex run jobs/local.toml --set output.uri=/tmp/index
  vidindex run jobs/local.toml --json >summary.json

With --json, one JSON object is printed however the run ends: finished, nothing to do, failed or stopped by a signal.
schemas/records.json describes it (run_report).")]
    Run {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        metrics: MetricsArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List the input, skip what is indexed, write the shards of a new run; prints its id.
    #[command(after_help = "Example:\n  run=$(vidindex plan jobs/s3.toml)")]
    Plan {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        plan: PlanArgs,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Work on a run's shards: all of them, or those of one task.
    #[command(after_help = "Example:\n  vidindex work jobs/s3.toml --run $run --task 0/4

Without --task the task comes from the engine: SLURM_ARRAY_TASK_ID, AWS_BATCH_JOB_ARRAY_INDEX or JOB_COMPLETION_INDEX.")]
    Work {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        run: RunArg,
        /// Task I of N takes the shards I, I+N, I+2N...
        #[arg(long, value_name = "I/N", env = "VIDINDEX_TASK")]
        task: Option<String>,
        #[command(flatten)]
        metrics: MetricsArg,
    },
    /// Publish a run's committed shards where readers look, and write its summary.
    #[command(after_help = "Example:\n  vidindex seal jobs/s3.toml --run $run")]
    Seal {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        run: RunArg,
        /// Wait first until every shard is committed, at most so long.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Plan, and hand the run to a cluster's engine: an array of tasks, then the seal.
    #[command(after_help = "Examples:
  vidindex submit jobs/s3.toml --engine slurm
  vidindex submit jobs/s3.toml --engine slurm --dry-run     what would be submitted
  vidindex submit jobs/s3.toml --engine slurm --run $run    what is left of a run
  vidindex submit jobs/s3.toml --engine aws-batch
  vidindex submit jobs/s3.toml --engine kubernetes --dry-run >objects.yaml

What the engine is told of the tasks stands in the job file, e.g. [engine.slurm]. Prints the run's id.")]
    Submit {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        plan: PlanArgs,
        /// Who runs the tasks.
        #[arg(long, value_enum, env = "VIDINDEX_ENGINE")]
        engine: Engine,
        /// Resume a run that was planned before.
        #[arg(long, value_name = "ID", conflicts_with_all = ["reindex", "retry_failed", "confirm_deleted"])]
        run: Option<String>,
        /// Only print what would be submitted.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how the runs of an output go, from what lies in it and from the engine that has them.
    #[command(after_help = "Examples:
  vidindex status jobs/s3.toml                        every run, a line each
  vidindex status jobs/s3.toml --run $run --watch     one run, until nothing more will happen

A run that was submitted is watched until its engine has no task of it left, pending or running. Where the engine cannot be
asked from here (no squeue, no kubectl), status says so, and --watch waits until the run is sealed.")]
    Status {
        #[command(flatten)]
        job: JobArgs,
        /// One run, in detail.
        #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
        run: Option<String>,
        /// Look again every few seconds.
        #[arg(long, requires = "run", conflicts_with = "json")]
        watch: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a page to look at: totals, failures, and of each video its actions and people on a timeline.
    #[command(after_help = "Examples:
  vidindex report jobs/local.toml                     the newest run, as report.html
  vidindex report jobs/s3.toml --run $run -o run.html

The page needs no network and no other file. With `thumbnails = true` in [report] of the job file, `work` writes pictures
of a few moments of each video, which the page then shows with the boxes that were found in them.")]
    Report {
        #[command(flatten)]
        job: JobArgs,
        /// The run; the newest where it is left out.
        #[arg(long, value_name = "ID", env = "VIDINDEX_RUN")]
        run: Option<String>,
        /// Where the page goes; what is there is replaced.
        #[arg(short, long, value_name = "FILE", default_value = "report.html")]
        output: PathBuf,
    },
    /// Ask the tables of an index in SQL, which DuckDB answers.
    #[command(after_help = "Examples:
  vidindex query jobs/s3.toml \"SELECT top_label, count(*) FROM current_actions GROUP BY ALL\"
  vidindex query /data/index -f schemas/queries/coverage.sql --format csv
  vidindex query jobs/s3.toml --like cam-1/a.mp4@75   segments like that of minute 1:15
  vidindex query s3://index/                          DuckDB's shell, with the views in place

Views: videos, actions and persons have the rows of every run, current_videos, current_actions and current_persons those of
each video's latest good one. Times are in UTC.")]
    Query {
        /// A job file (NAME.toml), whose output is asked, or an index: a directory or s3://bucket/prefix/.
        #[arg(value_name = "JOB|INDEX")]
        place: String,
        /// What to ask. Without it, SQL is read from standard input; on a terminal, that is DuckDB's shell.
        #[arg(conflicts_with = "file")]
        sql: Option<String>,
        /// Read the SQL from a file.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Find the segments that are most like the one that lies here, by their embeddings.
        #[arg(long, value_name = "VIDEO@SECONDS", conflicts_with_all = ["sql", "file"])]
        like: Option<query::Moment>,
        /// How results are printed.
        #[arg(long, value_enum, default_value = "table", env = "VIDINDEX_FORMAT")]
        format: query::Format,
        /// Changes a value of the job file; may be given again.
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,
        /// DuckDB's command line, where it is not `duckdb` on the PATH.
        #[arg(long, value_name = "PROGRAM", env = "VIDINDEX_DUCKDB")]
        duckdb: Option<PathBuf>,
    },
    /// Show what no current view of the tables uses, and with --yes remove it.
    #[command(after_help = "Examples:
  vidindex prune jobs/s3.toml                         what would go
  vidindex prune jobs/s3.toml --yes

Files go whose every row has a newer one; the state of runs goes that have no file left. Runs that were not sealed whole a
day ago are left alone.")]
    Prune {
        #[command(flatten)]
        job: JobArgs,
        /// Remove it.
        #[arg(long)]
        yes: bool,
    },
    /// Merge the small files of finished runs into large ones.
    #[command(after_help = "Examples:
  vidindex compact jobs/s3.toml --dry-run             what would be merged
  vidindex compact jobs/s3.toml

The current views show the same rows before and after. Nothing is removed: the files that were merged are in use no more,
and `vidindex prune` removes them; until then the tables hold their rows twice. Runs that were not sealed whole a day ago
are left alone.")]
    Compact {
        #[command(flatten)]
        job: JobArgs,
        /// Only print what would be merged.
        #[arg(long)]
        dry_run: bool,
    },
    /// List, download, write and look at models.
    #[command(
        subcommand,
        after_help = "Examples:
  vidindex models list
  vidindex models pull yolov5s                        download the official weights and write the model
  vidindex models convert mine.pt --out models        write the model of your own checkpoint"
    )]
    Models(models::Command),
    /// Check what is installed and reachable, and say how to fix the rest.
    #[command(after_help = "Examples:
  vidindex doctor                                     what is installed
  vidindex doctor jobs/s3.toml                        and whether this job's models, input and output can be used

Exit code 1 where a check failed.")]
    Doctor {
        /// A job to check too: its models, input and output.
        job: Option<PathBuf>,
        /// Changes a value of the job file.
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct MetricsArg {
    /// Keep counters for Prometheus in this file, as node_exporter's textfile collector takes them.
    #[arg(long, value_name = "FILE", env = "VIDINDEX_METRICS")]
    metrics: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct JobArgs {
    /// The job file.
    job: PathBuf,
    /// Changes a value of the job file; may be given again.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Where models run: auto, cpu, openvino, cuda:0, tensorrt:0. The same as --set run.device=...
    #[arg(long, env = "VIDINDEX_DEVICE")]
    device: Option<String>,
}

impl JobArgs {
    fn load(&self) -> Result<Job> {
        let mut set = self.set.clone();
        set.extend(self.device.iter().map(|device| format!("run.device=\"{device}\"")));
        Job::load(&self.job, &set)
    }

    /// What follows the job file, for a process elsewhere.
    fn options(&self) -> Vec<String> {
        let set = self.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
        set.chain(self.device.iter().flat_map(|device| ["--device".to_owned(), device.clone()])).collect()
    }
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// Take every video, also those that are indexed.
    #[arg(long, env = "VIDINDEX_REINDEX")]
    reindex: bool,
    /// Retry every video that failed and has not changed, also those that fail by their own fault or too often.
    #[arg(long, env = "VIDINDEX_RETRY_FAILED")]
    retry_failed: bool,
    /// Mark videos that are gone from the input as deleted, even if they are more than input.deleted_max.
    #[arg(long, env = "VIDINDEX_CONFIRM_DELETED")]
    confirm_deleted: bool,
}

impl PlanArgs {
    fn options(&self) -> PlanOptions {
        let Self { reindex, retry_failed, confirm_deleted } = *self;
        PlanOptions { reindex, retry_failed, confirm_deleted }
    }
}

#[derive(Debug, Args)]
struct RunArg {
    /// The run's id, as `plan` printed it.
    #[arg(long = "run", value_name = "ID", env = "VIDINDEX_RUN")]
    run: String,
}

#[derive(Debug, Args)]
struct JsonArg {
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// How long models may take to stop: half of what engines leave a process between SIGTERM and SIGKILL.
const CLOSING_MAX: Duration = Duration::from_secs(15);

/// Runs the command line to its end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(cli.log_format, if cli.quiet { -1 } else { cli.verbose as i8 });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::failed(format!("failed to start: {error}")), cli.log_format),
    };
    let format = cli.log_format;
    let result = runtime.block_on(async {
        let known = Known::default();
        let reports = matches!(&cli.command, Command::Run { json, .. } if json.json);
        let code = tokio::select! {
            result = run(cli, &known) => {
                if reports {
                    known.print(&result).await?;
                }
                return result;
            }
            code = signalled() => code,
        };
        tracing::warn!("stopped by a signal: committed shards are kept, `vidindex work` and `seal` resume from there");
        tokio::select! {
            said = last_words(reports.then_some(&known), code) => said.map(|()| code),
            // A second signal ends it now.
            code = signalled() => Ok(code),
        }
    });
    // Whatever still runs was stopped on purpose; decoders end with us.
    runtime.shutdown_background();
    infer::close_sessions(CLOSING_MAX);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error, format),
    }
}

/// Says what a signal has stopped: to the store, for `status`, and on standard output for `run --json`.
async fn last_words(reports: Option<&Known>, code: u8) -> Result<()> {
    attempt::stopped().await;
    match reports {
        Some(known) => known.print_stopped(code).await,
        None => Ok(()),
    }
}

/// Waits for SIGINT or SIGTERM; gives their exit codes.
async fn signalled() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

fn failed(error: &Error, format: LogFormat) -> ExitCode {
    if format == LogFormat::Json {
        tracing::error!(hint = error.hint(), "{error}");
    } else {
        console::note(format_args!("error: {error}"));
        if let Some(hint) = error.hint() {
            console::note(format_args!("hint: {hint}"));
        }
    }
    ExitCode::from(error.exit_code())
}

/// The exit code of a run that finished, but not for every video.
const INCOMPLETE: u8 = 3;

/// The exit code that a summary calls for.
fn exit_code(summary: &RunSummary) -> u8 {
    if summary.is_flawless() { 0 } else { INCOMPLETE }
}

async fn run(cli: Cli, known: &Known) -> Result<u8> {
    let mut context = Context {
        format: cli.log_format,
        quiet: cli.quiet,
        onnxruntime: cli.onnxruntime,
        runtime: OnceLock::new(),
        metrics: None,
    };
    match cli.command {
        Command::Run { job, plan, metrics, json } => {
            context.metrics = metrics.metrics;
            context.run(&job.load()?, plan.options(), json.json, known).await
        }
        Command::Plan { job, plan, dry_run } => {
            let job = job.load()?;
            let (_, planned, output) = context.plan(&job, plan.options(), dry_run).await?;
            if dry_run {
                console::print(&planned)?;
            } else {
                planned.write(&*output).await?;
                console::print(&planned.run.run_id)?;
            }
            Ok(0)
        }
        Command::Work { job, run, task, metrics } => {
            context.metrics = metrics.metrics;
            let task = crate::engine::task(task.as_deref(), |name| std::env::var(name).ok())?;
            let done = context.work(&job.load()?, &run.run.parse()?, task).await?;
            context.show(&done);
            Ok(0)
        }
        Command::Seal { job, run, wait, json } => {
            let job = job.load()?;
            let output = store::open(&job.output.uri, &job.store).await?;
            let run = run.run.parse()?;
            if let Some(seconds) = wait {
                let shards = record::read_record(&*output, &run).await?.shards;
                seal::wait(&*output, run.as_str(), shards, Duration::from_secs(seconds)).await?;
            }
            let summary = context.seal(&*output, &run).await?;
            if json.json {
                let text = serde_json::to_string_pretty(&summary);
                console::print(text.map_err(|error| Error::failed(format!("failed to print the summary: {error}")))?)?;
            } else {
                context.show_published(&summary);
            }
            Ok(exit_code(&summary))
        }
        Command::Submit { job, plan, engine, run, dry_run } => {
            context.submit(&job, plan.options(), engine, run.as_deref(), dry_run).await
        }
        Command::Status { job, run, watch, json } => show_status(&job.load()?, run.as_deref(), watch, json).await,
        Command::Report { job, run, output } => write_report(&job.load()?, run.as_deref(), &output).await,
        Command::Prune { job, yes } => {
            let job = job.load()?;
            let output = store::open(&job.output.uri, &job.store).await?;
            let prunable = prune::find(&*output, Utc::now()).await?;
            console::print(&prunable)?;
            match (prunable.is_empty(), yes) {
                (false, true) => prunable.remove(&*output).await?,
                (false, false) => console::note("nothing is removed without --yes"),
                (true, _) => {}
            }
            Ok(0)
        }
        Command::Compact { job, dry_run } => {
            let job = job.load()?;
            let output = store::open(&job.output.uri, &job.store).await?;
            if !dry_run {
                compact::catch_up(&*output, Utc::now()).await?;
            }
            let compaction = compact::find(&*output, Utc::now(), compact::TARGET_BYTES).await?;
            if dry_run || compaction.is_empty() {
                console::print(&compaction)?;
            } else {
                console::print(compaction.run(&output, &job).await?)?;
                console::note("nothing is removed: `vidindex prune` shows the files that are in use no more");
            }
            Ok(0)
        }
        Command::Query { place, sql, file, like, format, set, duckdb } => {
            let index = query::Index::named(&place, &set)?;
            let sql = sql.or(like.map(|moment| moment.likeness_sql()));
            query::run(&index, &query::Query { sql, file, format }, duckdb.as_deref()).await
        }
        Command::Models(command) => command.run(&context).await,
        Command::Doctor { job, set } => {
            let job = job.map(|path| Job::load(&path, &set)).transpose()?;
            Ok(if doctor::check(context.onnxruntime.as_deref(), job.as_ref()).await? { 0 } else { 1 })
        }
    }
}

async fn write_report(job: &Job, run: Option<&str>, file: &Path) -> Result<u8> {
    let output = store::open(&job.output.uri, &job.store).await?;
    let run = match run {
        Some(run) => run.parse()?,
        None => report::newest(&*output).await?.ok_or_else(|| {
            Error::usage(format!("there are no runs in {}", job.output.uri))
                .with_hint("`vidindex run JOB.toml` makes one; is output.uri right?")
        })?,
    };
    let page = report::page(&*output, &run).await?;
    std::fs::write(file, &page).map_err(|error| Error::failed(format!("cannot write {}: {error}", file.display())))?;
    tracing::info!(run_id = run.as_str(), size = %bytesize::ByteSize(page.len() as u64), "report written");
    console::print(file.display())?;
    Ok(0)
}

/// The exit code that the listing calls for: what could not be listed is not indexed.
fn listed_code(planned: &Plan) -> u8 {
    if planned.unlisted_message().is_some() { INCOMPLETE } else { 0 }
}

/// From one look at a run to the next.
const WATCH_EVERY: Duration = Duration::from_secs(5);

async fn show_status(job: &Job, run: Option<&str>, watch: bool, json: bool) -> Result<u8> {
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

/// What the output does not tell: whether tasks wait, of a run that an engine has.
async fn ask_engine(output: &dyn Store, job: &Job, status: &mut RunStatus) -> Result<()> {
    if status.state != State::Sealed
        && let Some(found) = engine::queue::look(output, job, &status.run_id).await?
    {
        status.learn(found);
    }
    Ok(())
}

struct Context {
    format: LogFormat,
    quiet: bool,
    onnxruntime: Option<PathBuf>,
    runtime: OnceLock<Arc<Runtime>>,
    metrics: Option<PathBuf>,
}

impl Context {
    async fn run(&self, job: &Job, options: PlanOptions, json: bool, known: &Known) -> Result<u8> {
        // A device that is not there must be known before anything is listed.
        self.runtime(job)?;
        let (models, planned, output) = self.plan(job, options, false).await?;
        if planned.run.shards == 0 {
            return self.nothing_to_do(&planned);
        }
        planned.write(&*output).await?;
        known.planned(&output, &planned.run);
        let run_id = planned.run.run_id.clone();
        let done = self.work_with(job, models, output.clone(), &run_id, Task::ALL).await?;
        let summary = self.seal(&*output, &run_id).await?;
        let code = exit_code(&summary).max(listed_code(&planned));
        if !json {
            self.show_published(&summary);
        }
        self.show(&done);
        known.sealed(summary);
        if !json {
            console::print(&run_id)?;
        }
        Ok(code)
    }

    /// The plan has no shards: all is done, or nothing was found.
    fn nothing_to_do(&self, planned: &Plan) -> Result<u8> {
        if planned.nothing_matched() {
            planned.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
            return Err(Error::failed(planned.nothing_matched_message())
                .with_hint("check [input] uri and include; `vidindex plan JOB --dry-run` shows what was skipped"));
        }
        tracing::info!("nothing new to index: --reindex takes every video, --retry-failed those that failed");
        console::note(planned);
        Ok(listed_code(planned))
    }

    async fn plan(&self, job: &Job, options: PlanOptions, dry_run: bool) -> Result<(JobModels, Plan, Arc<dyn Store>)> {
        let models = JobModels::read(job)?;
        models.warn_of_random();
        let input = store::open(&job.input.uri, &job.store).await?;
        let output = store::open(&job.output.uri, &job.store).await?;
        let refs = models.refs();
        if !dry_run {
            seal::catch_up(&*output, &job.fingerprint(&refs.hashes()), DateTime::UNIX_EPOCH).await?;
        }
        let planned = plan::plan(job, &refs, &*input, &*output, options).await?;
        if !dry_run {
            planned.not_included_message().inspect(|message| tracing::info!("{message}"));
            planned.unlisted_message().inspect(|message| tracing::warn!("{message}"));
            planned.unfit_message().inspect(|message| tracing::warn!("{message}"));
        }
        Ok((models, planned, output))
    }

    async fn work(&self, job: &Job, run_id: &RunId, task: Task) -> Result<Done> {
        let models = JobModels::read(job)?;
        models.warn_of_random();
        let output = store::open(&job.output.uri, &job.store).await?;
        self.work_with(job, models, output, run_id, task).await
    }

    async fn work_with(
        &self,
        job: &Job,
        models: JobModels,
        output: Arc<dyn Store>,
        run_id: &RunId,
        task: Task,
    ) -> Result<Done> {
        let (run, plan) = record::read(&*output, run_id).await?;
        if job.fingerprint(&models.refs().hashes()) != run.fingerprint {
            return Err(Error::usage(format!(
                "the job file or its models are not those that {run_id} was planned with"
            ))
            .with_hint("plan again; or give the same job file, models and --set as to `plan`"));
        }
        let input = store::open(&job.input.uri, &job.store).await?;
        let progress = Arc::new(Progress::default());
        let worker = Worker {
            input,
            output,
            run: Arc::new(run),
            models,
            program: decode::own_program()?,
            video_timeout: Duration::from_secs(job.run.video_timeout_seconds),
            progress: progress.clone(),
        };
        let metrics = self.metrics.as_ref().map(|path| MetricsFile::start(path, run_id.as_str(), progress.clone()));
        let metrics = metrics.transpose()?;
        let _display = ProgressDisplay::start(progress, self.format, self.quiet);
        let done = worker.work(&plan, task, &|| self.runtime(job)).await;
        metrics.map_or(Ok(()), MetricsFile::finish)?;
        done
    }

    async fn submit(
        &self,
        arguments: &JobArgs,
        options: PlanOptions,
        engine: Engine,
        run: Option<&str>,
        dry_run: bool,
    ) -> Result<u8> {
        let job = arguments.load()?;
        let (run, shards, output) = match run {
            Some(run) => {
                let output = store::open(&job.output.uri, &job.store).await?;
                let record = record::read_record(&*output, &run.parse()?).await?;
                (record.run_id, record.shards, output)
            }
            None => {
                let (_, planned, output) = self.plan(&job, options, dry_run).await?;
                if planned.run.shards == 0 {
                    return self.nothing_to_do(&planned);
                }
                if dry_run {
                    console::note(&planned);
                } else {
                    planned.write(&*output).await?;
                }
                (planned.run.run_id, planned.run.shards, output)
            }
        };
        let submission = Submission {
            job: &job,
            run: &run,
            shards,
            program: decode::own_program()?,
            job_file: arguments.job.clone(),
            job_options: arguments.options(),
        };
        let submitted = engine::submit(engine, &submission, dry_run).await?;
        let lines = submitted.lines.join("\n");
        if dry_run {
            console::print(lines)?;
            return Ok(0);
        }
        console::note(lines);
        if let Err(error) = engine::queue::note(&*output, &run, engine, submitted.jobs).await {
            tracing::warn!(%error, "`vidindex status` cannot tell that this run is submitted");
        }
        console::print(&run)?;
        Ok(0)
    }

    /// ONNX Runtime on the job's device: loaded once, a process can have no second.
    fn runtime(&self, job: &Job) -> Result<Arc<Runtime>> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.clone());
        }
        let runtime = Arc::new(Runtime::load(self.onnxruntime.as_deref(), job.run.device, job.run.precision)?);
        Ok(self.runtime.get_or_init(|| runtime).clone())
    }

    async fn seal(&self, output: &dyn Store, run_id: &RunId) -> Result<RunSummary> {
        let run = record::read_record(output, run_id).await?;
        if !run.merges_files() {
            layout::check(&run.job, output).await?;
        }
        seal::seal(output, run_id.as_str(), run.shards, run.created_at).await
    }

    fn show_published(&self, summary: &RunSummary) {
        if self.quiet || self.format != LogFormat::Text {
            return;
        }
        let filled = summary.tables.iter().filter(|(_, totals)| totals.files > 0);
        let rows = filled.map(|(table, totals)| format!("{table} {} rows", totals.rows));
        console::note(format_args!("published  {}", rows.collect::<Vec<_>>().join(", ")));
        if !summary.is_complete() {
            console::note(format_args!("missing    shards {:?}: work on them, then seal again", summary.missing));
        }
    }

    /// The closing table.
    fn show(&self, done: &Done) {
        if self.quiet {
            return;
        }
        if done.committed_before > 0 {
            tracing::info!(shards = done.committed_before, "shards were committed before and are kept");
        }
        match self.format {
            LogFormat::Text => console::note(done.timings.to_string().trim_end()),
            LogFormat::Json => done.timings.log(),
        }
    }
}
