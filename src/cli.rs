//! The command line: parses arguments, calls the other modules, prints results. Each command has a file in `cli/`.

mod args;
mod bench;
mod clips;
mod compact;
mod completions;
mod doctor;
mod eval;
mod find;
mod models;
pub mod outcome;
mod plan;
mod prune;
mod query;
mod report;
mod restore;
mod run;
mod seal;
mod sheet;
mod status;
mod submit;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use outcome::Known;

use crate::error::{Error, Result};
use crate::job::MaxFailed;
use crate::pipeline::Pipeline;
use crate::run::{RunId, RunSummary, Task};
use crate::telemetry::{LogFormat, MetricsFile, Otlp, Progress, ProgressDisplay};
use crate::work::{Done, attempt, stop};
use crate::{console, infer, telemetry};

/// Turns a video archive into tables: which action happens in which segment, and where the people are.
#[derive(Debug, Parser)]
#[command(
    name = "vidindex",
    version,
    after_help = "Examples:
  vidindex models pull yolov5s                      download a model
  vidindex run jobs/local.toml                      index a folder or a bucket, on this machine
  vidindex run jobs/local.toml --set input.uri=/mnt/clips --device cpu
  vidindex plan jobs/local.toml --dry-run           what would be indexed

Exit codes: 0 all videos indexed; 1 the job failed; 2 wrong usage or configuration;
3 finished, but some videos failed, or folders could not be listed, or shards are missing; 130/143 stopped by a signal."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Format of log lines: text for humans, or one JSON object per line.
    #[arg(long, global = true, value_enum, default_value = "text", env = "VIDINDEX_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log more; give it twice to log everything. VIDINDEX_LOG takes a filter like RUST_LOG.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log only errors.
    #[arg(short, long, global = true, env = "VIDINDEX_QUIET")]
    quiet: bool,
    /// The ONNX Runtime library, or the folder that contains it.
    #[arg(long, global = true, value_name = "PATH", env = "VIDINDEX_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Plan(plan::Plan),
    Work(work::Work),
    Seal(seal::Seal),
    Submit(submit::Submit),
    Status(status::Status),
    Report(report::Report),
    Sheet(sheet::Sheet),
    Query(query::Query),
    Find(find::Find),
    Clips(clips::Clips),
    Eval(eval::Eval),
    Prune(prune::Prune),
    Restore(restore::Restore),
    Compact(compact::Compact),
    Bench(bench::Bench),
    /// List, download, convert and inspect models.
    #[command(
        subcommand,
        after_help = "Examples:
  vidindex models list
  vidindex models pull yolov5s                        download the official weights and convert them
  vidindex models convert mine.pt --out models        convert your own checkpoint
  vidindex models quantize models/mine.onnx --calibrate ~/Videos    make it faster on processors"
    )]
    Models(models::Command),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
}

/// Time that a stopped worker may take to save the videos that it has finished.
const SAVING_MAX: Duration = Duration::from_secs(10);

/// Time that models may take to stop: half of what engines leave a process between SIGTERM and SIGKILL.
const CLOSING_MAX: Duration = Duration::from_secs(15);

/// Runs the command line and returns the exit code.
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
        let reports = matches!(&cli.command, Command::Run(run) if run.reports());
        let mut work = Box::pin(run(cli, &known));
        let code = tokio::select! {
            result = &mut work => {
                if reports {
                    known.print(&result).await?;
                }
                return result;
            }
            code = signalled() => code,
        };
        tracing::warn!("stopped by a signal: finished videos are saved, and the same command continues from there");
        tokio::select! {
            _ = &mut work => {}
            () = stop::request() => {}
            () = tokio::time::sleep(SAVING_MAX) => tracing::warn!("the output does not respond: the last videos are not saved"),
            // A second signal ends the process immediately.
            code = signalled() => return Ok(code),
        }
        drop(work);
        tokio::select! {
            said = report_interruption(reports.then_some(&known), code) => said.map(|()| code),
            code = signalled() => Ok(code),
        }
    });
    // Whatever is still running was stopped on purpose, and decoders end with this process.
    runtime.shutdown_background();
    infer::close_sessions(CLOSING_MAX);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error, format),
    }
}

/// Records that a signal stopped the work: in the store, for `status`, and on standard output for `run --json`.
async fn report_interruption(reports: Option<&Known>, code: u8) -> Result<()> {
    attempt::stopped().await;
    match reports {
        Some(known) => known.print_stopped(code).await,
        None => Ok(()),
    }
}

/// Waits for SIGINT or SIGTERM. Returns the corresponding exit code.
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

/// Writes a file that a command was asked for.
fn write_file(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::failed(format!("failed to write {}: {error}", file.display())))
}

/// The exit code of a run that finished, but not completely.
const INCOMPLETE: u8 = 3;

/// The exit code that follows from a summary. `max_failed` is how many videos may fail, or be indexed only in part.
fn exit_code(summary: &RunSummary, max_failed: &MaxFailed) -> u8 {
    let failed = summary.totals.videos_failed + summary.totals.videos_partial;
    let by_kind = summary.totals.failures.iter().map(|(kind, failures)| (*kind, failures.videos));
    if !summary.is_complete() || !max_failed.allows(by_kind, summary.totals.videos_ok + failed) {
        return INCOMPLETE;
    }
    if failed > 0 {
        tracing::warn!(failed, %max_failed, "videos failed or are partial, but not more than max_failed allows");
    }
    0
}

async fn run(cli: Cli, known: &Known) -> Result<u8> {
    let Cli { command, log_format: format, verbose: _, quiet, onnxruntime } = cli;
    let console = Console { format, quiet };
    let pipeline = Pipeline::new(onnxruntime.clone());
    match command {
        Command::Run(command) => command.run(&console, &pipeline, known).await,
        Command::Plan(command) => command.run(&pipeline).await,
        Command::Work(command) => command.run(&console, &pipeline).await,
        Command::Seal(command) => command.run(&console).await,
        Command::Submit(command) => command.run(&pipeline).await,
        Command::Status(command) => command.run().await,
        Command::Report(command) => command.run().await,
        Command::Sheet(command) => command.run().await,
        Command::Query(command) => command.run().await,
        Command::Find(command) => command.run().await,
        Command::Clips(command) => command.run().await,
        Command::Eval(command) => command.run().await,
        Command::Prune(command) => command.run().await,
        Command::Restore(command) => command.run().await,
        Command::Compact(command) => command.run().await,
        Command::Bench(command) => command.run(&pipeline).await,
        Command::Models(command) => command.run(&console, onnxruntime.as_deref()).await,
        Command::Completions(command) => command.run(),
        Command::Doctor(command) => command.run(onnxruntime.as_deref()).await,
    }
}

/// Format and amount of output.
struct Console {
    format: LogFormat,
    quiet: bool,
}

impl Console {
    /// Displays the progress of the work and updates the Prometheus metrics file until the work ends.
    async fn while_shown(
        &self,
        run_id: &RunId,
        task: Task,
        progress: Arc<Progress>,
        metrics: Option<&Path>,
        work: impl Future<Output = Result<Done>>,
    ) -> Result<Done> {
        telemetry::identify(run_id.as_str(), task.index, task.count);
        let start = |path| MetricsFile::start(path, run_id.as_str(), task.index, progress.clone());
        let metrics = metrics.map(start).transpose()?;
        let otlp = Otlp::start(run_id.as_str(), task.index, &progress)?;
        let _display = ProgressDisplay::start(progress, self.quiet);
        let done = work.await;
        metrics.map_or(Ok(()), MetricsFile::finish)?;
        otlp.finish().await;
        done
    }

    fn show_published(&self, summary: &RunSummary) {
        if self.quiet || self.format != LogFormat::Text {
            return;
        }
        let filled = summary.tables.iter().filter(|(_, totals)| totals.files > 0);
        let rows = filled.map(|(table, totals)| format!("{table} {} rows", totals.rows));
        console::note(format_args!("published  {}", rows.collect::<Vec<_>>().join(", ")));
        if !summary.is_complete() {
            console::note(format_args!(
                "missing    shards {:?}: run `vidindex work` for them, then seal again",
                summary.missing
            ));
        }
    }

    /// Prints the closing table.
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
